"""The provider on Airflow with Celery, PostgreSQL and Redis."""
