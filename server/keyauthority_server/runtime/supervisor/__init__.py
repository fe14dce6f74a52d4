"""The main process: holds the data folder and the address, keeps N workers alive, drains them.

It knows no call and no store, so that nothing that goes wrong in a worker can reach it.
"""

from keyauthority_server.runtime.supervisor.locks import hold_address, hold_folder
from keyauthority_server.runtime.supervisor.workers import CrashLoop, Supervisor

__all__ = ["CrashLoop", "Supervisor", "hold_address", "hold_folder"]
