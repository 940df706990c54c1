"""Becomes the given command, and leaves a watchdog that stops it if the owner dies, in any way.

The owner has the other end of our standard input. A byte from there says that the command has ended and was reaped. An
end of file says that the owner is gone. The watchdog is a grandchild: so the command keeps the process id, the exit
status and the parent that its owner expects.
"""

import os
import signal
import sys
import time

stop_signal, grace, user, *command = sys.argv[1:]
owned = os.getpid()


def watch():
    os.setsid()  # out of the command's process group, which is killed as one
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # The reader of the command's output sees its end only if no copy is open.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if os.read(0, 1):
        return
    try:
        os.kill(owned, int(stop_signal))
        give_up = time.monotonic() + float(grace)
        while time.monotonic() < give_up:
            time.sleep(0.02)
            os.kill(owned, 0)
        os.killpg(owned, signal.SIGKILL)
    except ProcessLookupError:
        pass


os.closerange(3, 1024)
if os.fork() == 0:
    if os.fork() == 0:
        watch()
    os._exit(0)
os.wait()
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
if user:
    uid, gid = map(int, user.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
    os._exit(127)
