// js-libp2p with its DHT, as a server of it, as a process: JSON requests on stdin, JSON replies on stdout.
//
// node kad.mjs
// Copied beside its node_modules before it runs, because that is where node looks for them.

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify, identifyPush } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import { answerRequests } from './serving.mjs'

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services: {
    identify: identify(),
    identifyPush: identifyPush(),
    ping: ping(),
    // Otherwise it takes no addresses of loopback.
    dht: kadDHT({ protocol: '/ipfs/kad/1.0.0', clientMode: false, peerInfoMapper: passthroughMapper })
  }
})

await answerRequests(node, {
  known: async () => node.services.dht.routingTable.size,
  async provide ({ cid, timeout }) {
    await node.contentRouting.provide(CID.parse(cid), { signal: AbortSignal.timeout(timeout * 1000) })
    return null
  },
  async providers ({ cid, timeout }) {
    const found = {}
    const options = { signal: AbortSignal.timeout(timeout * 1000) }
    for await (const peer of node.contentRouting.findProviders(CID.parse(cid), options)) {
      found[peer.id.toString()] = peer.multiaddrs.map((addr) => addr.toString())
    }
    return found
  }
})
