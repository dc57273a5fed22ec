"""Through a whole Airflow with its processes."""
