"""A gRPC service that checks keys in its own process. Run it with `python grpc_orders.py`.

KEYAUTHORITY_ADDRESS is the address of the authority, KEYAUTHORITY_OPERATOR_KEY the service's key.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyauthority import Client, Verifier
from keyauthority.middleware.grpc import KeyInterceptor, caller

RULES = {
    "/grpc.health.v1.Health/Check": ["health:read"],  # your own methods and their permissions
    "/grpc.reflection.*": None,  # no key is needed
}


class Health(health_pb2_grpc.HealthServicer):
    """Stands for your own service."""

    def Check(  # noqa: N802 - the name is the proto's
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Answer an admitted caller, and print its access key."""
        print(f"called by {caller().access_key}", flush=True)  # noqa: T201 - it is an example
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def main() -> None:
    """Serve until the process is terminated."""
    authority = Client(
        os.environ["KEYAUTHORITY_ADDRESS"],
        operator_key=os.environ["KEYAUTHORITY_OPERATOR_KEY"],
    )
    with authority, Verifier(authority) as verifier:
        server = grpc.server(ThreadPoolExecutor(8), interceptors=[KeyInterceptor(verifier, RULES)])
        health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
        port = server.add_insecure_port(os.environ.get("LISTEN", "127.0.0.1:8080"))
        server.start()
        print(f"listening on port {port}", flush=True)  # noqa: T201 - it is an example
        server.wait_for_termination()


if __name__ == "__main__":
    main()
