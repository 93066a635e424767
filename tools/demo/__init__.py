"""`make demo`: a checkpoint goes from one home to another, through the real commands.

A relay at a public address and two peers behind NATs, in network namespaces where the machine
allows it, else all on loopback. One publishes a safetensors checkpoint, the other finds and
fetches it by its ticket, through the relay at first and then directly; every byte is compared.
Then eight fetch a file at once from one whose uplink is thin: they help each other, one of them is
killed and takes it up again, and one more, which sends wrong bytes, is caught.
Exit status 0 only if all are equal. Leaves nothing behind.
"""
