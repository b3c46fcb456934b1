-- POSTGRES_DB is Prefect's; MLflow has one of its own.
CREATE DATABASE mlflow;
