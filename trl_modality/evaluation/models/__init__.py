"""What answers: transformers models, servers, a model that looks twice."""
