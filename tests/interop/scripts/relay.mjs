// js-libp2p's circuit relay, as a process: JSON requests on stdin, JSON replies on stdout.
//
// node relay.mjs [--serve] [--reserve MULTIADDR]
// With --serve it relays for others; with --reserve it reserves at the relay of that address,
// and is reached through it. Copied beside its node_modules before it runs, because that is
// where node looks for them.

import { parseArgs } from 'node:util'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'
import { answerRequests, serveEcho } from './serving.mjs'

const { values: options } = parseArgs({
  options: { serve: { type: 'boolean', default: false }, reserve: { type: 'string' } }
})

const listen = ['/ip4/127.0.0.1/tcp/0']
if (options.reserve !== undefined) {
  listen.push(`${options.reserve}/p2p-circuit`)
}
const services = { identify: identify(), ping: ping({ runOnLimitedConnection: true }) }
if (options.serve) {
  services.relay = circuitRelayServer({ reservations: { defaultDataLimit: BigInt(1 << 26) } })
}

const node = await createLibp2p({
  addresses: { listen },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services
})

await serveEcho(node, { runOnLimitedConnection: true })

await answerRequests(node, {
  addrs: async () => node.getMultiaddrs().map((addr) => addr.toString()),
  async ping ({ peer }) {
    const found = node.getConnections().find((one) => one.remotePeer.toString() === peer)
    return await node.services.ping.ping(found.remotePeer) / 1000
  }
})
