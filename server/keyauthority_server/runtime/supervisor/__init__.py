"""The main process: locks the data folder and the address, restarts workers, drains them.

It must not handle calls or open the store, so that a fault in a worker cannot affect it. Begin with
`workers.Supervisor`; `locks` excludes a second server.
"""

from keyauthority_server.runtime.supervisor.locks import hold_address, hold_folder
from keyauthority_server.runtime.supervisor.workers import CrashLoop, Supervisor

__all__ = ["CrashLoop", "Supervisor", "hold_address", "hold_folder"]
