#!/usr/bin/env python3
"""What section 5 of docs/design.md promises, explored exhaustively: sessions and prunes over a store whose writes are
create-only and whose listings show what was written.

Every order of single store operations is visited, and any process may stop for ever after any of them. One chunk is
enough to show a loss: each pack here holds a copy of it. What must hold: while a snapshot that needs the chunk is
listed, the chunk is in a pack that is there and that a segment names.

What the real prune does beyond "delete a pack": it writes segments anew without the packs that go, and with a view of
the index that may be old (so a name can come back after its pack is gone); it deletes packs that no segment names; a
session that was declared void may still write segments; a prune marks again what another prune left marked, and
removes a tombstone of another one only if nothing that it names is left.

Thieves hold a writer's key, and credentials that only create: a liar stores a pack of garbage and a segment that says
that it holds the chunk; a hider puts a byte where the record that a session was forgotten would be.

A sharded backup is one session of several processes: one announces it, then each shard takes a view of its own, relies or
uploads, and leaves the session open; a shard may be killed anywhere and run again. The one that closes commits when every
shard has said what it relies on, without looking at anything again.

  protocol.py [--writers 2] [--shards 0] [--pruners 1] [--liars 0] [--hiders 0] [--any-mark] [--break NAME] [--list]

Exit 1 and a trace after a loss.
"""
import argparse
import sys
from collections import deque
from itertools import combinations

BREAKS = {
    "tombstones-before-session": "a session lists tombstones before it is announced",
    "index-before-tombstones": "a session reads the index before it lists tombstones (holds: packs are listed later still)",
    "tombstones-last": "a session lists tombstones after it has read the index and listed packs",
    "no-presence": "a session trusts the index without looking which packs are there",
    "commit-overwrites": "the commit is not create-only",
    "no-void": "a sweep ignores sessions that are still open",
    "no-relist": "a sweep uses the snapshots that the plan was made from",
    "index-before-relist": "a sweep reads the index before it lists tombstones (holds: packs are listed later still)",
    "own-tombstone-only": "a sweep counts copies in packs that other tombstones name",
    "sweep-no-presence": "a sweep counts copies in packs that are not there (no loss found)",
    "orphans-blindly": "a sweep deletes packs without a segment though a needed chunk is nowhere else",
    "tombstone-first": "a sweep removes its tombstone before segments and packs",
    "foreign-tombstone": "a prune removes tombstones of others though their packs are there",
    "believe-segments": "a sweep takes a chunk for stored where a segment says so, unopened (needs a liar)",
    "trust-all": "a session relies on packs of whoever names them (needs a liar)",
    "view-before-plan": "a shard takes its view before the session is announced (needs shards)",
    "close-as-another": "the snapshot of a sharded backup is committed by a session that begins at the end (needs shards)",
    "bytes-end": "a sweep takes any byte under forgotten/ for the end of a session (needs a hider)",
}
ap = argparse.ArgumentParser()
ap.add_argument("--writers", type=int, default=2)
ap.add_argument("--shards", type=int, default=0, help="make each writer a session of so many shards")
ap.add_argument("--pruners", type=int, default=1)
ap.add_argument("--liars", type=int, default=0)
ap.add_argument("--hiders", type=int, default=0)
ap.add_argument("--retries", type=int, default=0, help="sessions that a writer may begin after one was void")
ap.add_argument("--break", dest="brk", choices=BREAKS)
ap.add_argument("--any-mark", action="store_true", help="plans that mark any packs at all: safety must not rest on them")
ap.add_argument("--list", action="store_true")
ap.add_argument("--max", type=int, default=8_000_000)
A = ap.parse_args()
if A.list:
    for name, meaning in BREAKS.items():
        print(f"{name:28}{meaning}")
    sys.exit()
B = A.brk
F = frozenset
P0 = ("s0", 0)

# A store: named (packs that segments name), packs, sessions, outcomes {(session, kind)}, tombstones {(name, packs)}.
# Kinds of outcome: snap (needs the chunk), void, gone (forgotten; the record of that stays).


def needed(outcomes):
    return any(kind == "snap" for _, kind in outcomes)


def ended(outcomes):
    """What keeps a session from committing. A byte under forgotten/ ("byte") does not."""
    return {session for session, kind in outcomes if kind != "byte"}


def looks_ended(outcomes):
    """What a prune takes for the end of a session."""
    return {session for session, _ in outcomes} if B == "bytes-end" else ended(outcomes)


def honest(packs):
    return F(p for p in packs if not p[0].startswith("garbage"))


def buried(tombstones):
    return F().union(*(packs for _, packs in tombstones)) if tombstones else F()


def writer(i, store, w):
    named, packs, sessions, outcomes, tombs = store
    pc, tries, relied, seen, index = w
    me = f"w{i}.{tries}"

    def local(**k):
        return (k.get("pc", pc), k.get("tries", tries), k.get("relied", relied), k.get("seen", seen), k.get("index", index))

    begin = ["session", "tombs", "index", "packs"]
    if B == "tombstones-before-session":
        begin = ["tombs", "session", "index", "packs"]
    if B == "index-before-tombstones":
        begin = ["session", "index", "tombs", "packs"]
    if B == "tombstones-last":
        begin = ["session", "index", "packs", "tombs"]
    if pc < 4:
        step = begin[pc]
        if step == "session":
            yield f"{me} begins", (named, packs, sessions | {me}, outcomes, tombs), local(pc=pc + 1)
        elif step == "tombs":
            yield f"{me} lists tombstones", store, local(pc=pc + 1, seen=buried(tombs))
        elif step == "index":
            yield f"{me} reads the index", store, local(pc=pc + 1, index=named)
        else:
            there = index if B == "no-presence" else index & packs
            yield f"{me} lists packs", store, local(pc=pc + 1, index=there)
    elif pc == 4:
        usable = index - seen if B == "trust-all" else honest(index - seen)
        for p in sorted(usable):
            yield f"{me} relies on {p}", store, local(pc=7, relied=p)
        if not usable:
            p = (me, 0)
            yield f"{me} uploads pack {p}", (named, packs | {p}, sessions, outcomes, tombs), local(pc=5, relied=p)
    elif pc == 5:
        yield f"{me} uploads the segment of {relied}", (named | {relied}, packs, sessions, outcomes, tombs), local(pc=7)
    elif pc == 7:
        if me not in ended(outcomes) or B == "commit-overwrites":
            after = F(o for o in outcomes if o[0] != me or o[1] == "byte") | {(me, "snap")}
            yield f"{me} commits", (named, packs, sessions, after, tombs), local(pc=9)
        elif tries < A.retries:
            yield f"{me} is void, begins anew", store, (0, tries + 1, None, F(), F())


def sharded(i, store, w):
    """One session of several processes. A shard: step, runs left, pack it recorded, pack in hand, tombstones, index."""
    named, packs, sessions, outcomes, tombs = store
    pc, shards = w
    me = f"w{i}"
    committer = f"{me}.close" if B == "close-as-another" else me
    if pc == 0:
        yield f"{me} begins", (named, packs, sessions | {me}, outcomes, tombs), (1, shards)
    for n, (at, runs, said, hand, seen, index) in enumerate(shards):
        if pc == 0 and B != "view-before-plan" or pc > 1:
            break
        who = f"{me}.shard{n}"

        def local(**k):
            new = tuple(k.get(name, old) for name, old in zip(("at", "runs", "said", "hand", "seen", "index"), shards[n]))
            return pc, shards[:n] + (new,) + shards[n + 1:]

        if at == 0:
            yield f"{who} lists tombstones", store, local(at=1, seen=buried(tombs))
        elif at == 1:
            yield f"{who} reads the index", store, local(at=2, index=named)
        elif at == 2:
            yield f"{who} lists packs", store, local(at=3, index=index & packs)
        elif at == 3:
            own = {p for p in index if p[0].startswith(me)}
            usable = honest(index - seen) | own
            for p in sorted(usable):
                yield f"{who} relies on {p}", store, local(at=5, hand=p)
            if not usable:
                p = (f"{who}.{runs}", 0)
                yield f"{who} uploads pack {p}", (named, packs | {p}, sessions, outcomes, tombs), local(at=4, hand=p)
        elif at == 4:
            yield f"{who} uploads the segment of {hand}", (named | {hand}, packs, sessions, outcomes, tombs), local(at=5)
        elif at == 5 and pc == 1:
            yield f"{who} records", store, local(at=6, said=said or hand, hand=None, seen=F(), index=F())
        if runs and 0 < at and (pc == 1 or B == "view-before-plan"):
            yield f"{who} is run again", store, local(at=0, runs=runs - 1, hand=None, seen=F(), index=F())
    if pc == 1 and all(said for _, _, said, _, _, _ in shards):
        if B == "close-as-another":
            after = (named, packs, sessions | {committer}, outcomes | {(me, "void")}, tombs)
            yield f"{me} ends, {committer} begins", after, (2, shards)
        else:
            yield f"{me} is about to be closed", store, (2, shards)
    elif pc == 2 and committer not in ended(outcomes):
        after = F(o for o in outcomes if o[0] != committer or o[1] == "byte") | {(committer, "snap")}
        yield f"{committer} commits", (named, packs, sessions, after, tombs), (3, shards)


def pruner(i, store, p):
    named, packs, sessions, outcomes, tombs = store
    pc, S, T, G, H, mark, kill = p
    name, tomb = f"prune{i}", f"t{i}"

    def local(**k):
        return (k.get("pc", pc), k.get("S", S), k.get("T", T), k.get("G", G), k.get("H", H), k.get("mark", mark), k.get("kill", kill))

    if pc == 0:
        yield f"{name} lists snapshots", store, local(pc=1, S=outcomes)
    elif pc == 1:
        # Packs that are there: named or not, marked by others or not.
        if A.any_mark:
            picks = [F(c) for n in range(1, len(packs) + 1) for c in combinations(sorted(packs), n)]
        else:
            free = named & packs - buried(tombs)
            open_ = {x for x in honest(packs) if x[0].split(".shard")[0] not in looks_ended(S) and x[0] != "s0"}
            # Which copy it would keep is a matter of taste, and a liar may suit that taste.
            keeps = [{min(free)}] + [{p} for p in free - honest(free)] if free and needed(S) else [set()]
            picks = [F(packs - keep - open_) for keep in keeps]
        for m in picks:
            yield f"{name} would mark {sorted(m)}", store, local(pc=2 if m else 99, mark=m)
    elif pc == 2:
        yield f"{name} creates tombstone {sorted(mark)}", (named, packs, sessions, outcomes, tombs | {(tomb, mark)}), local(pc=3)
    elif pc == 3:
        if B == "no-void":
            yield f"{name} ignores sessions", store, local(pc=5)
        else:
            yield f"{name} lists sessions", store, local(pc=4, H=sessions)
    elif pc == 4:
        open_ = sorted(s for s in H if s not in looks_ended(outcomes))
        for s in open_:
            yield f"{name} voids {s}", (named, packs, sessions, outcomes | {(s, "void")}, tombs), p
        if not open_:
            yield f"{name} sees all ended", store, local(pc=5)
    elif pc == 5:
        yield f"{name} lists snapshots again", store, local(pc=6, S=S if B == "no-relist" else outcomes)
    elif pc in (6, 7):
        if (pc == 6) != (B == "index-before-relist"):
            t = F(x for n, v in tombs for x in v if n == tomb or B != "own-tombstone-only")
            yield f"{name} lists tombstones", store, local(pc=pc + 1, T=t)
        else:
            yield f"{name} reads the index", store, local(pc=pc + 1, G=named)
    elif pc == 8:
        yield f"{name} lists packs", store, local(pc=9, H=G if B == "sweep-no-presence" else G & packs)
    elif pc == 9:
        # Opened: garbage does not pass. A pack of garbage holds nothing that is needed.
        proved = H - T if B == "believe-segments" else honest(H - T)
        safe = not needed(S) or bool(proved)
        dead = F(x for x in mark if safe or (B == "orphans-blindly" and x not in G))
        yield f"{name} will delete {sorted(dead)}", store, local(pc=10, kill=dead)
    elif pc in (10, 11, 12):
        steps = ["segments", "packs", "tombstone"] if B != "tombstone-first" else ["tombstone", "segments", "packs"]
        what = steps[pc - 10]
        if what == "segments":
            # Segments are written anew from what was read, which may name again what is gone by now.
            after = (named - kill) | (G - kill)
            yield f"{name} rewrites segments without {sorted(kill)}", (after, packs, sessions, outcomes, tombs), local(pc=pc + 1)
        elif what == "packs":
            yield f"{name} deletes packs {sorted(kill)}", (named, packs - kill, sessions, outcomes, tombs), local(pc=pc + 1)
        else:
            yield f"{name} removes its tombstone", (named, packs, sessions, outcomes, F(t for t in tombs if t[0] != tomb)), local(pc=pc + 1)
    elif pc == 13:
        for t in tombs:
            if t[0] != tomb and (B == "foreign-tombstone" or not t[1] & packs):
                yield f"{name} removes {t[0]}", (named, packs, sessions, outcomes, tombs - {t}), local(pc=14)


def thieves(store):
    named, packs, sessions, outcomes, tombs = store
    for i in range(A.liars):
        p = (f"garbage{i}", 0)
        if p not in packs and p not in named:
            yield f"liar{i} uploads garbage", (named, packs | {p}, sessions, outcomes, tombs)
            yield f"liar{i} names a pack that is not there", (named | {p}, packs, sessions, outcomes, tombs)
        elif p not in named:
            yield f"liar{i} names its garbage", (named | {p}, packs, sessions, outcomes, tombs)
    if A.hiders > sum(kind == "byte" for _, kind in outcomes):
        for session in sessions:
            if (session, "byte") not in outcomes:
                yield f"a byte stands for the end of {session}", (named, packs, sessions, outcomes | {(session, "byte")}, tombs)


def nexts(state):
    store, ws, ps = state
    named, packs, sessions, outcomes, tombs = store
    for label, store2 in thieves(store):
        yield label, (store2, ws, ps)
    for session, kind in outcomes:
        if kind == "snap":
            after = (outcomes - {(session, kind)}) | {(session, "gone")}
            yield f"forget {session}", ((named, packs, sessions, after, tombs), ws, ps)
    for i, w in enumerate(ws):
        for label, store2, w2 in (sharded if A.shards else writer)(i, store, w):
            yield label, (store2, ws[:i] + (w2,) + ws[i + 1:], ps)
    for i, p in enumerate(ps):
        for label, store2, p2 in pruner(i, store, p):
            yield label, (store2, ws, ps[:i] + (p2,) + ps[i + 1:])


def good(state):
    named, packs, _, outcomes, _ = state[0]
    return not needed(outcomes) or bool(honest(named & packs))


start = ((F([P0]), F([P0]), F(), F([("s0", "snap")]), F()),
         tuple((0, ((0, 1, None, None, F(), F()),) * A.shards) if A.shards else (0, 0, None, F(), F()) for _ in range(A.writers)),
         tuple((0, F(), F(), F(), F(), F(), F()) for _ in range(A.pruners)))
came = {start: None}
todo = deque([start])
while todo:
    state = todo.popleft()
    for label, after in nexts(state):
        if after in came:
            continue
        came[after] = (state, label)
        if not good(after):
            trace, at = [], after
            while came[at]:
                at, step = came[at]
                trace.append(step)
            print(f"LOST after {len(came)} states{f' ({B})' if B else ''}:")
            print("\n".join("  " + step for step in reversed(trace)))
            sys.exit(1)
        todo.append(after)
    if len(came) > A.max:
        print(f"no loss in {len(came)} states (bound reached)")
        sys.exit(0)
print(f"holds: {len(came)} states, all orders of {A.writers} writers{f' of {A.shards} shards' if A.shards else ''}, {A.pruners} prunes and {A.liars + A.hiders} thieves")
