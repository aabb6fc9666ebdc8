"""Faults, carried out on a world (what is to happen when is in plan.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.plan import LEADER, Fault

if TYPE_CHECKING:
    from tests.simulation.process import Process, Store
    from tests.simulation.world import World

BURST = 200  # commands at once
FAR_S = 0.05  # on the way to a store that is far away


class Strike:
    """Carries faults out on a world.  A method per kind; its docstring names the values."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self, fault: Fault) -> None:
        self._world.say(f"FAULT {fault}")
        method: Callable[..., bool | None] = getattr(self, fault.kind.replace("-", "_").replace(" ", "_"))
        if method(*fault.values) is not False:
            self._world.fault_counts[fault.kind] += 1

    def _store(self, which: float) -> Store | None:
        world = self._world
        store = world.leader_store() if which == LEADER else world.stores.get(int(which))
        return store if store is not None and store.process is not None else None

    def _others(self, store: Store) -> list[tuple[int, int]]:
        return [(min(store.id, b), max(store.id, b)) for b in self._world.stores if b != store.id]

    # --- processes ------------------------------------------------------------------------------------------------------

    def _down(self, which: float, effects: float, down_s: float, power: bool) -> bool:
        store = self._store(which)
        if store is None or store.process is None:
            return False
        store.power_fails = power
        store.down_s = down_s
        if effects:
            store.process.loop.fuse = int(effects)
        else:
            self._world.kill(store, "fault")
        return True

    def kill(self, which: float, effects: float, down_s: float) -> bool:
        """store, after how many more of its effects, seconds until it is started again: what was written stays"""
        return self._down(which, effects, down_s, power=False)

    def power_loss(self, which: float, effects: float, down_s: float) -> bool:
        """store, effects, seconds: any prefix of what was not synced stays, and of the rest perhaps a torn piece"""
        return self._down(which, effects, down_s, power=True)

    def power_loss_in_disk_operation(self, which: float, operations: float, down_s: float) -> bool:
        """store, changing disk operations until the one in which the power goes, seconds"""
        store = self._store(which)
        if store is None:
            return False
        store.power_fails, store.down_s = True, down_s
        store.disk.lose_power_after(int(operations))
        return True

    def kill_in_disk_operation(self, which: float, operations: float, down_s: float) -> bool:
        """store, changing disk operations until the one in which the process is killed, seconds"""
        store = self._store(which)
        if store is None:
            return False
        store.power_fails, store.down_s = False, down_s
        store.disk.lose_power_after(int(operations))
        return True

    def pause(self, which: float, seconds: float) -> bool:
        """store, seconds"""
        store = self._store(which)
        if store is None or store.process is None or store.process.loop.paused:
            return False
        process = store.process
        process.loop.pause()
        self._world.scheduler.after(seconds, process.loop.resume)
        return True

    def lost_log(self, which: float, down_s: float) -> bool:
        """store, seconds: unless that many logs are gone already that entries may be"""
        world, store = self._world, self._store(which)
        if store is None or not world.may_lose_log(store):
            return False
        store.power_fails, store.down_s = True, down_s
        world.kill(store, "lost log", lose_log=True)
        return True

    def lost_tail(self, which: float, share: float, down_s: float) -> bool:
        """store, share of its log that stays, seconds: its last synced entries are gone, and nothing says so but what it noted beside its
        log.  What it had not noted goes only where a majority holds it without this store: that nobody could notice"""
        world, store = self._world, self._store(which)
        if store is None or store.process is None or store.process.group is None or not world.may_lose_log(store):
            return False
        store.power_fails, store.down_s = True, down_s
        world.kill(store, "lost tail", keep_share=share)
        return True

    def closed_in_order(self, which: float, hand_over: float, down_s: float) -> bool:
        """store, whether it hands its leadership over first, seconds: its process ends by itself, as at a SIGTERM"""
        return self._ask(self._store(which), lambda process: process.close(bool(hand_over), down_s))

    # --- clocks ---------------------------------------------------------------------------------------------------------

    def clock_drift(self, which: float, rate: float) -> bool:
        """store, its clock's speed from now on"""
        store = self._store(which)
        if store is None or store.process is None:
            return False
        store.drift = rate
        store.process.loop.set_drift(rate)
        return True

    def clock_jump(self, which: float, seconds: float) -> bool:
        """store, seconds by which its clock leaps forward"""
        store = self._store(which)
        if store is None or store.process is None or store.process.loop.paused:
            return False
        store.process.loop.jump(seconds)
        return True

    # --- links ----------------------------------------------------------------------------------------------------------

    def disconnect(self, a: float, b: float, seconds: float) -> None:
        """two stores, seconds"""
        self._block([(int(min(a, b)), int(max(a, b)))], seconds)

    def isolate(self, which: float, seconds: float) -> bool:
        """store, seconds"""
        store = self._store(which)
        if store is None:
            return False
        self._block(self._others(store), seconds)
        return True

    def split(self, sides: float, seconds: float) -> None:
        """a bit per store that is on the far side, seconds"""
        ids = sorted(self._world.stores)
        far = {i for n, i in enumerate(ids) if int(sides) >> n & 1}
        self._block([(a, b) for a in ids for b in ids if a < b and (a in far) != (b in far)], seconds)

    def _block(self, pairs: Sequence[tuple[int, int]], seconds: float) -> None:
        network = self._world.network
        for pair in pairs:
            network.block(pair)
        self._world.after_unless_healed(seconds, lambda: [network.unblock(pair) for pair in pairs])

    def one_way_cut(self, a: float, b: float, seconds: float) -> None:
        """from store, to store, seconds in which nothing arrives; then the stream breaks"""
        network, way = self._world.network, (int(a), int(b))
        network.cut[way] += 1

        def over() -> None:
            network.cut[way] -= 1
            network.break_stream(*way)

        self._world.after_unless_healed(seconds, over)

    def slow_link(self, a: float, b: float, factor: float, seconds: float) -> None:
        """from store, to store, times slower, seconds"""
        network, way = self._world.network, (int(a), int(b))
        network.slow[way] = factor
        self._world.after_unless_healed(seconds, lambda: network.slow.pop(way, None))

    def duplicate(self, share: float, seconds: float) -> None:
        """share of frames that arrive twice, seconds"""
        network = self._world.network
        network.duplicate_share = share
        self._world.after_unless_healed(seconds, lambda: setattr(network, "duplicate_share", 0.0))

    # --- disks ----------------------------------------------------------------------------------------------------------

    def disk_full(self, which: float, room: float, seconds: float) -> bool:
        """store, bytes that still fit, seconds"""
        store = self._store(which)
        if store is None:
            return False
        disk = store.disk
        disk.capacity_bytes = disk.used_bytes() + int(room)
        self._world.after_unless_healed(seconds, lambda: setattr(disk, "capacity_bytes", 1 << 40))
        return True

    def disk_error(self, which: float, operation: float, skip: float, down_s: float) -> bool:
        """store, which operation fails (0 write, 1 sync, 2 name), how many do not before it, seconds until the disk is repaired"""
        world, store = self._world, self._store(which)
        if store is None or store.broken:
            return False
        failing: Any = ("pwrite", "fdatasync", "fsync_dir")[int(operation)]
        store.broken = True
        store.disk.fail(failing, skip=int(skip), name="/")
        world.after_unless_healed(down_s, lambda: world.repair(store))
        return True

    def slow_disk(self, which: float, factor: float, seconds: float) -> bool:
        """store, times slower, seconds"""
        store = self._store(which)
        if store is None:
            return False
        store.latency.factor = factor
        self._world.after_unless_healed(seconds, lambda: setattr(store.latency, "factor", 1.0))
        return True

    # --- requests of the operator ---------------------------------------------------------------------------------------

    def leadership_transfer(self) -> bool:
        """nothing: the leader is asked to hand over"""
        store = self._store(LEADER)
        if store is None or store.process is None or store.process.group is None:
            return False
        store.process.loop.arrive(store.process.group.transfer_leadership)
        return True

    def closed_gate(self, which: float, seconds: float) -> bool:
        """store, seconds in which its node is not ready: it follows and votes, it does not campaign (R4.2)"""
        store = self._store(which)
        if store is None or store.process is None or store.process.registry is None:
            return False
        registry = store.process.registry
        store.process.loop.arrive(setattr, registry, "may_lead", False)
        self._world.scheduler.after(seconds, store.process.loop.arrive, setattr, registry, "may_lead", True)
        return True

    def snapshot(self, which: float) -> bool:
        """store"""
        return self._ask(self._store(which), lambda process: process.take_snapshot())

    def trim(self, share: float) -> bool:
        """how far towards the newest snapshot of the leader"""
        store = self._store(LEADER)
        return self._ask(store, lambda process: process.trim(share))

    def compact(self, which: float) -> bool:
        """store: its largest snapshot that retention has reached becomes its oldest"""
        return self._ask(self._store(which), lambda process: process.compact())

    def broken_transfers(self, share: float, seconds: float) -> None:
        """share of the chunks of snapshots after which the transfer breaks, seconds"""
        network = self._world.network
        network.break_transfers_share = share
        self._world.after_unless_healed(seconds, lambda: setattr(network, "break_transfers_share", 0.0))

    def _ask(self, store: Store | None, ask: Callable[[Process], None]) -> bool:
        if store is None or store.process is None or store.process.group is None:
            return False
        store.process.loop.arrive(ask, store.process)
        return True

    def add_member(self, which: float) -> bool:
        """store: it becomes a learner and, once it has caught up, a voter"""
        return self._ask(self._store(LEADER), lambda process: process.add_member(int(which)))

    def add_learner(self, which: float) -> bool:
        """store: it becomes a learner and stays one"""
        return self._ask(self._store(LEADER), lambda process: process.add_learner(int(which)))

    def remove_member(self, which: float) -> bool:
        """store: the leader, if it is the one, hands over instead"""
        return self._ask(self._store(LEADER), lambda process: process.remove_member(int(which)))

    # --- several at once, where luck alone would take too long ----------------------------------------------------------

    def comeback(self, rank: float, cut_s: float, slow_s: float) -> bool:
        """which follower, seconds until the leader is back, seconds that the follower's answers take: the leader is given much and cut off
        with one follower that stops right after it has answered; when others have led for a while it leads again, asked for little
        until it hears those answers, and of its new followers one is near"""
        world, network, leader = self._world, self._world.network, self._store(LEADER)
        if leader is None or len(world.ids) < 5 or network.held_up:  # one at a time
            return False
        others = [i for i in world.ids if i != leader.id]
        follower = world.stores[others[int(rank) % len(others)]]
        if follower.process is None:
            return False
        network.held_up[follower.id, leader.id] = slow_s
        apart = [i for i in others if i != follower.id]
        self._block([_ordered(leader.id, i) for i in apart], cut_s)
        self._block([_ordered(follower.id, i) for i in apart], slow_s + cut_s)
        world.workload.owner.insist(leader.id, BURST)
        self.idle(slow_s)
        world.scheduler.after(0.3 * cut_s, follower.process.loop.pause)
        world.scheduler.after(slow_s + cut_s, follower.process.loop.resume)
        far = [(leader.id, i) for i in apart[1:]]
        network.held_up.update(dict.fromkeys(far, FAR_S))
        held_up = [(follower.id, leader.id), *far]
        world.after_unless_healed(slow_s + cut_s, lambda: [network.held_up.pop(way, None) for way in held_up])
        for n in range(1, 16):
            world.after_unless_healed(cut_s + 0.2 * n, lambda: self._hand_to(leader))
        return True

    def _hand_to(self, wanted: Store) -> None:
        now = self._store(LEADER)
        if now is not None and now is not wanted and now.process is not None and now.process.group is not None:
            group = now.process.group
            now.process.loop.arrive(lambda: (group.engine.transfer_leadership(wanted.id), group._ticker.wake(group)))

    def unguarded_word(self, rank: float, lag_s: float, effects: float) -> bool:
        """which follower, seconds, effects: the leader writes with that follower alone; it loses its log, and the leader dies after so many
        of its effects when it is back; then those come back that hold less"""
        world, leader = self._world, self._store(LEADER)
        if leader is None or leader.process is None or leader.process.group is None:
            return False
        members = leader.process.group.members.voters
        others = [i for i in members if i != leader.id]
        if leader.id not in members or not others:
            return False
        follower = world.stores[others[int(rank) % len(others)]]
        apart = [i for i in world.ids if i not in (leader.id, follower.id)]
        down_s, back_s = 0.1, 0.3
        self._block([_ordered(i, j) for i in apart for j in (leader.id, follower.id)], lag_s + down_s + back_s)

        def lose() -> None:
            if follower.process is not None and world.may_lose_log(follower):
                follower.power_fails, follower.down_s = True, down_s
                world.kill(follower, "lost log", lose_log=True)

        def kill_leader() -> None:
            if leader.process is not None:
                leader.power_fails, leader.down_s = False, 3.0
                leader.process.loop.fuse = int(effects)

        world.after_unless_healed(lag_s, lose)
        world.after_unless_healed(lag_s + down_s, kill_leader)
        return True

    def contested_election(self, share: float, down_s: float) -> bool:
        """share of frames that arrive twice, seconds that the leader is down: links are slow meanwhile, so that several campaign at once"""
        network, leader = self._world.network, self._store(LEADER)
        if leader is None:
            return False
        usual_s, network.delay_s = network.delay_s, 0.03
        self._world.scheduler.after(2.5, setattr, network, "delay_s", usual_s)
        self.duplicate(share, 2.5)
        return self._down(leader.id, 0, down_s, power=False)

    def idle(self, seconds: float) -> None:
        """seconds in which nobody asks for anything"""
        world = self._world
        world.workload.idle_until = min(world.scheduler.now + seconds, world.seconds)

    def changes_in_split(self, first: float, second: float, sides: float, seconds: float) -> bool:
        """two members that the leader is asked to remove or add at one moment, a bit per store that is on the far side of the split that
        follows, seconds"""
        leader = self._store(LEADER)
        if leader is None or leader.process is None or leader.process.group is None:
            return False
        process = leader.process
        for store in (int(first), int(second)):
            process.loop.arrive(process.change_member, store)
        self._world.after_unless_healed(0.01, lambda: self.split(sides, seconds))
        return True


def _ordered(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)
