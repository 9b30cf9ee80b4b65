"""Do: batcher, replicas, router, Open Inference Protocol server, load generator, verify."""
