"""HTTP endpoints of programs that run beside a service: the gateway, `notify`, the console.

They carry checks, health and metrics on an address of the user's choice; nothing here may know the
authority or a key. Begin with `http_server`, which bounds what a connection may send.
"""
