"""Guards for services: they admit a request that carries a key with the needed permissions.

`asgi`, `wsgi`, `fastapi` and `grpc` are for one framework each; none is needed at install. Begin
with `admission`: it reads the facts of a request and obtains one verdict, free of any framework.
`credentials`, `client_address`, `rejection`, `rules` and `http` are its parts. Nothing here
decides about a key: that is left to a `Verifier` or `Client`.
"""
