"""Make images, videos and audio at Magic Hour from Airflow."""

__version__ = "0.1.0"
