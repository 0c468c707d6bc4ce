"""Ranks that watch each other: when one dies, stops or fails, the others end too and say which it was and why.

A collective that misses a rank waits for half an hour, or ends in a traceback that names nobody. So every rank holds a
connection to rank 0, says each second that it lives, and says what ails it before it ends; rank 0 passes on who ended.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import torch.distributed as dist

_BEAT = 1.0  # seconds between two signs of life
_SILENCE = 40.0  # so long without one, and a rank is taken for stopped
_GRACE = 10.0  # seconds that a main thread has to come out of a collective by itself, and others to say goodbye
_CONNECTING = 30.0


class Ended(NamedTuple):
    """A rank that ended before its time: its number, if known, and what it said, or what is known of it."""

    rank: int | None
    reason: str

    def __str__(self) -> str:
        return f"{'a rank' if self.rank is None else f'rank {self.rank}'} ended: {self.reason}"


@dataclass(eq=False)
class _Peer:
    """The connection to another rank, and when it was last heard of."""

    rank: int
    line: socket.socket
    heard: float
    unread: bytes = b""
    has_left: bool = False


class Watch:
    """This rank's part; to be started by all ranks together.

    Args:
        rank: its number.
        local_rank: its number on its machine.
        peers: of rank 0 all others, of another rank 0 alone, with a connection each.
        children: processes that this one has started, by rank: of these it is known what ended them.
    """

    def __init__(
        self, rank: int, local_rank: int, peers: Sequence[_Peer], children: dict[int, subprocess.Popen[Any]]
    ) -> None:
        self.rank, self._local_rank = rank, local_rank
        self._peers = {peer.rank: peer for peer in peers}
        self._children = children
        self._sending = threading.Lock()
        self._found = threading.Event()
        self._ended: Ended | None = None
        self._found_at = 0.0
        self._is_leaving = self._has_left = False
        self._has_failed = False
        self._thread = threading.Thread(target=self._look, name="rank-watch", daemon=True)
        self._thread.start()

    def fail(self, reason: str) -> None:
        """Tell the others that this rank ends, and why."""
        self._has_failed = True
        self._tell({"ended": [self.rank, reason[:2000]]})

    def who_ended(self, seconds: float = 0.0) -> Ended | None:
        """Another rank that ended; one that is about to be found is waited for."""
        self._found.wait(seconds)
        return self._ended

    @property
    def speaks(self) -> bool:
        """Whether this is the machine's first rank that is left."""
        first = self.rank - self._local_rank
        gone = self._ended is not None and self._ended.rank == first
        return self.rank == (first + 1 if gone else first)

    def leave(self) -> None:
        """Part from the others; in good order rank 0 goes last, for they speak through it."""
        self._is_leaving = True
        self._tell({"left": self.rank})
        until = time.monotonic() + _GRACE
        in_order = self._ended is None and not self._has_failed
        while self.rank == 0 and in_order and time.monotonic() < until and not self._all_left():
            time.sleep(0.02)
        self._end_child()
        self._has_left = True
        with self._sending:
            for peer in self._peers.values():
                with suppress(OSError):
                    peer.line.close()

    def _all_left(self) -> bool:
        return all(peer.has_left for peer in self._peers.values())

    def _look(self) -> None:
        """What the thread does: speak, listen, judge; until `leave` closes the connections."""
        with selectors.DefaultSelector() as selector:
            for peer in self._peers.values():
                selector.register(peer.line, selectors.EVENT_READ, peer)
            self._look_by(selector)

    def _look_by(self, selector: selectors.BaseSelector) -> None:
        spoken = 0.0
        while not self._has_left:
            if time.monotonic() - spoken >= _BEAT:
                spoken = time.monotonic()
                self._tell({"lives": self.rank})
            try:
                for key, _ in selector.select(_BEAT):
                    if not self._listen(key.data):
                        selector.unregister(key.fileobj)
            except (OSError, ValueError, KeyError):
                return
            now = time.monotonic()
            for peer in self._peers.values():
                if not peer.has_left and now - peer.heard > _SILENCE:
                    self._find(Ended(peer.rank, f"no sign of life for {_SILENCE:.0f} seconds (stopped?)"))
            if self._found.is_set() and now - self._found_at > _GRACE and not self._is_leaving:
                self._end_process()  # the main thread waits in a collective, which nothing else can end

    def _end_process(self) -> NoReturn:
        if self.speaks:
            print(f"tide: error: {self._ended}", file=sys.stderr, flush=True)
        self._end_child()
        os._exit(2)

    def _listen(self, peer: _Peer) -> bool:
        """Take what a peer says; whether there is more to come."""
        try:
            said = peer.line.recv(65536)
        except OSError:
            said = b""
        peer.heard = time.monotonic()
        if not said:
            if not peer.has_left:
                peer.has_left = True
                self._find(Ended(peer.rank, self._what_ended(peer.rank)))
            return False
        *lines, peer.unread = (peer.unread + said).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "ended" in message:
                self._find(Ended(*message["ended"]))
            peer.has_left |= "left" in message
        return True

    def _find(self, ended: Ended) -> None:
        """Keep the first that ended, for others end because of it; rank 0 passes it on."""
        if self._ended is None and ended.rank != self.rank:
            self._ended, self._found_at = ended, time.monotonic()
            if self.rank == 0:
                self._tell({"ended": list(ended)})
            self._found.set()

    def _what_ended(self, rank: int) -> str:
        child = self._children.get(rank)
        if child is not None:
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(_BEAT)
                return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return "it was killed, or its machine is gone"

    def _tell(self, message: dict[str, object]) -> None:
        content = json.dumps(message).encode() + b"\n"
        with self._sending:
            for peer in self._peers.values():
                with suppress(OSError):
                    peer.line.sendall(content)

    def _end_child(self) -> None:
        """A process of ours that was found to be stopped would stay so for ever."""
        child = None if self._ended is None or self._ended.rank is None else self._children.get(self._ended.rank)
        if child is not None and child.poll() is None:
            child.kill()


def start_watch(address: str, local_rank: int, children: dict[int, subprocess.Popen[Any]]) -> Watch | None:
    """Let all ranks watch each other; None where they cannot reach rank 0's machine. All ranks must call it.

    `children` are the processes that this one has started, by rank.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    listener = socket.create_server(("", 0), backlog=world) if rank == 0 else None
    told: list[Any] = [(listener.getsockname()[1], secrets.token_hex(16))] if listener else [None]
    dist.broadcast_object_list(told)
    port, token = told[0]
    try:
        if listener is not None:
            with listener:
                peers = _accept(listener, token, world)
        else:
            line = socket.create_connection((address, port), timeout=_CONNECTING)
            line.sendall(json.dumps([token, rank]).encode() + b"\n")
            line.settimeout(_SILENCE)
            peers = [_Peer(0, line, time.monotonic())]
    except OSError:
        peers = []
    able: list[Any] = [None] * world
    dist.all_gather_object(able, bool(peers))
    if not all(able):
        return None
    return Watch(rank, local_rank, peers, children)


def _accept(listener: socket.socket, token: str, world: int) -> list[_Peer]:
    """Connections from all other ranks; who does not know the token is none of them."""
    peers: dict[int, _Peer] = {}
    until = time.monotonic() + _CONNECTING
    while len(peers) < world - 1:
        listener.settimeout(max(0.01, until - time.monotonic()))
        line, _ = listener.accept()
        line.settimeout(_BEAT)
        try:
            said = b""
            while not said.endswith(b"\n") and len(said) < 200:
                said += line.recv(1) or b"\n"
            theirs, rank = json.loads(said)
            known = hmac.compare_digest(theirs, token) and 0 < rank < world
        except (OSError, ValueError, TypeError):
            known = False
        if not known:
            line.close()
            continue
        line.settimeout(_SILENCE)
        peers[rank] = _Peer(rank, line, time.monotonic())
    return list(peers.values())
