"""What waiting costs: requests, lateness, CPU, memory, DAG parse time."""
