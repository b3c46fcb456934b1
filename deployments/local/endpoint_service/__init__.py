"""A SageMaker-compatible endpoint service on loopback, for rehearsals. See ``docs/endpoint-service.md``."""
