#!/usr/bin/env python3
"""What docs/design.md promises of the log, explored exhaustively: commands that append entries to numbered, create-only
places, and thieves beside them.

A command writes an object, finds the end of the log, and claims the number there; whoever loses takes in what stands there
and tries the next one. It may stop for ever after any step. A warm one remembers the log up to some number and looks that
the last entry is still there; a cold one lists the log and believes the last entry of its own key or a maintainer's. When
it has appended, it prints a checkpoint: how many entries there are, and which.

Thieves hold another writer's key and may create: an entry that lies about what stood before it, at the end or far ahead, and
junk. A vandal may also delete.

What must hold, in every order: without a vandal, each checkpoint that was ever printed is the beginning of the log, and of
each later checkpoint; what a command appended is in the log; and the log goes on whatever thieves put there. With one, each
checkpoint that no longer is the beginning of the log is told by who compares it.

  log.py [--warm 1] [--cold 1] [--thieves 0] [--vandals 0] [--break NAME] [--list]

Exit 1 and a trace after a violation.
"""
import argparse
import sys
from collections import deque

BREAKS = {
    "overwrites": "creates overwrite what is there",
    "believes-anyone": "a cold command believes the last entry, whoever signed it (needs a thief)",
    "highest-number": "the log ends after the highest number, not before the first free one (needs a thief)",
    "skips-junk": "junk is no leaf (needs a thief)",
    "no-look": "a warm command does not look whether its last entry is there (needs a vandal)",
}
ap = argparse.ArgumentParser()
ap.add_argument("--warm", type=int, default=1)
ap.add_argument("--cold", type=int, default=1)
ap.add_argument("--thieves", type=int, default=0)
ap.add_argument("--vandals", type=int, default=0)
ap.add_argument("--break", dest="brk", choices=BREAKS)
ap.add_argument("--list", action="store_true")
A = ap.parse_args()
if A.list:
    for name, meaning in BREAKS.items():
        print(f"{name:20}{meaning}")
    sys.exit()
B = A.brk
AHEAD = 4
# The log: {number: (who, tree that it says stood before it)}. A tree is the sequence of leaves.
START = {0: ("maintainer", ()), 1: ("w0", ("maintainer",))}


def leaf(entry):
    return entry[0]


def leaves(log):
    """The log as whoever verifies it reads it: up to the first number that is free."""
    out, n = [], 0
    while n in log:
        if not (B == "skips-junk" and log[n][0] == "junk"):
            out.append(leaf(log[n]))
        n += 1
    return tuple(out)


def end_of(log):
    if B == "highest-number":
        return max(log, default=-1) + 1
    n = 0
    while n in log:
        n += 1
    return n


def cold_view(log, me):
    """What stands before the end, as far as a command believes that knows nothing."""
    end, after = end_of(log), []
    for n in range(end - 1, -1, -1):
        who, before = log.get(n, ("nothing", ()))
        after.insert(0, who)
        if who == me or who == "maintainer" or B == "believes-anyone" and who not in ("junk", "nothing"):
            return before + tuple(after)
    return tuple(after)


def command(i, warm, log, state):
    """State: step, view (leaves before the number that it wants), told (whether it missed something)."""
    step, view, told = state
    me = f"w{i}" if warm else f"c{i}"
    if step == 0:
        if warm:
            missed = B != "no-look" and (1 not in log or log[1] != START[1])
            yield f"{me} remembers two entries", log, (1, leaves(START), missed), None
        else:
            yield f"{me} lists the log", log, (1, cold_view(log, me), False), None
    elif step == 1:
        n = len(view)
        if n not in log or B == "overwrites" and log[n][0] != me:
            yield f"{me} takes number {n}", {**log, n: (me, view)}, (2, view + (me,), told), view + (me,)
        else:
            yield f"{me} takes in number {n}", log, (1, view + (leaf(log[n]),), told), None


def thieves(log, left):
    if left:
        n = end_of(log)
        yield f"a thief lies at number {n}", {**log, n: ("thief", ("lie",) * n)}
        yield "a thief lies far ahead", {**log, AHEAD: log.get(AHEAD, ("thief", ("lie",) * AHEAD))}
        yield f"junk stands at number {n}", {**log, n: ("junk", ())}


def freeze(log):
    return tuple(sorted(log.items()))


kinds = [True] * A.warm + [False] * A.cold
start = (freeze(START), tuple((0, (), False) for _ in kinds), A.thieves, A.vandals, frozenset())
came, todo = {start: None}, deque([start])


def nexts(state):
    log_, commands, thief, vandal, printed = state
    log = dict(log_)
    for label, after in thieves(log, thief):
        yield label, (freeze(after), commands, thief - 1, vandal, printed)
    if vandal:
        for n in log:
            yield f"a vandal removes number {n}", (freeze({k: v for k, v in log.items() if k != n}), commands, thief, 0, printed)
    for i, (warm, c) in enumerate(zip(kinds, commands)):
        for label, after, c2, prints in command(i, warm, log, c):
            more = printed | {prints} if prints else printed
            yield label, (freeze(after), commands[:i] + (c2,) + commands[i + 1:], thief, vandal, more)


def good(state):
    log, _, _, vandal, printed = state
    if A.vandals and not vandal:
        # Checkpoints need not hold any more: see `told`.
        return True
    now = leaves(dict(log))
    return all(now[:len(p)] == p for p in printed)


def told(before, after):
    """With a vandal: whoever begins while what it remembers is not there says so."""
    for warm, c, d in zip(kinds, before[1], after[1]):
        if warm and c[0] == 0 and d[0] == 1 and 1 not in dict(before[0]) and not d[2]:
            return False
    return True


while todo:
    state = todo.popleft()
    for label, after in nexts(state):
        ok = good(after) and told(state, after)
        if after in came and ok:
            continue
        fresh = after not in came
        came.setdefault(after, (state, label))
        if not ok:
            trace, at = [label], state
            while came[at]:
                at, step = came[at]
                trace.append(step)
            print(f"BROKEN after {len(came)} states{f' ({B})' if B else ''}:")
            print("\n".join("  " + step for step in reversed(trace)))
            sys.exit(1)
        if fresh:
            todo.append(after)
print(f"holds: {len(came)} states, all orders of {A.warm} warm and {A.cold} cold commands, {A.thieves} thieves and {A.vandals} vandals")
