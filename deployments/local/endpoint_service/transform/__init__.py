"""Batch transform: objects from S3 through a model server that lives as long as the job."""
