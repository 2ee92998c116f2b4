"""The gRPC services: one module a service. serve.api around it is the server that runs them."""
