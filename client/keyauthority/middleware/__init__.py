"""Guards for services: they admit requests whose key has the needed permissions.

`asgi`, `wsgi`, `fastapi` and `grpc` serve one framework each, imported only by that module. They
must not decide about a key: that is left to a `Verifier` or `Client`. Begin with `admission`, which
reads the facts of a request and obtains one verdict; `rules` and `keyauthority.http` are its parts.
"""
