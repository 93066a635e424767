"""The replicated, signed, verifiable store. The format is in `docs/crdt-format.md`.

| module | what is in it |
|---|---|
| :mod:`~lattica.crdt.document` | :class:`Document`: what users read and write |
| :mod:`~lattica.crdt.types` | registers, counters, sets and claims, resolved from entries |
| :mod:`~lattica.crdt.log` | what of them is admitted, in which order, and kept in a file |
| :mod:`~lattica.crdt.tree` | one root for equal states, proofs of what is there and what is not |
| :mod:`~lattica.crdt.entries` | genesis, headers, chains, proofs of a fork: from bytes, checked |
| :mod:`~lattica.crdt.keys` | strict Ed25519, session keys and their certificates |
| :mod:`~lattica.crdt.base.canonical` | plain data in its one encoding |

A document is the set of its admitted entries, and there is no network in any of this.
"""
