// js-libp2p with AutoNAT v2, both as a server and as a client; runs until it is ended.
//
// node autonat.mjs --listen MULTIADDR [--dial MULTIADDR]...
// Copied beside its node_modules before it runs, because that is where node looks for them.

import { parseArgs } from 'node:util'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { autoNATv2 } from '@libp2p/autonat-v2'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const { values: options } = parseArgs({
  options: {
    listen: { type: 'string', multiple: true },
    dial: { type: 'string', multiple: true, default: [] }
  }
})

const node = await createLibp2p({
  addresses: { listen: options.listen },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services: { identify: identify(), autonat: autoNATv2() }
})

const say = (message) => process.stdout.write(JSON.stringify(message) + '\n')
say({ event: 'ready', peer_id: node.peerId.toString() })
for (const addr of options.dial) {
  await node.dial(multiaddr(addr))
  say({ event: 'connected', addr })
}
