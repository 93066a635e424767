// js-libp2p with GossipSub, as a process: JSON requests on stdin, JSON replies on stdout.
//
// node pubsub.mjs
// Copied beside its node_modules before it runs, because that is where node looks for them.

import { createInterface } from 'node:readline'
import { gossipsub } from '@libp2p/gossipsub'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify, identifyPush } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services: { identify: identify(), identifyPush: identifyPush(), pubsub: gossipsub() }
})

const heard = []
node.services.pubsub.addEventListener('message', ({ detail }) => heard.push({
  topic: detail.topic,
  data: Buffer.from(detail.data).toString('hex'),
  source: detail.from?.toString(),
  type: detail.type
}))

const requests = {
  async connect ({ addr, timeout }) {
    await node.dial(multiaddr(addr), { signal: AbortSignal.timeout(timeout * 1000) })
    return null
  },
  peers: async () => node.getPeers().map((peer) => peer.toString()),
  async subscribe ({ topic }) { node.services.pubsub.subscribe(topic); return null },
  subscribers: async ({ topic }) =>
    node.services.pubsub.getSubscribers(topic).map((peer) => peer.toString()),
  mesh: async ({ topic }) => node.services.pubsub.getMeshPeers(topic),
  async publish ({ topic, data }) {
    const { recipients } = await node.services.pubsub.publish(topic, Buffer.from(data, 'hex'))
    return recipients.length
  },
  heard: async () => heard.splice(0)
}

const reply = (message) => process.stdout.write(JSON.stringify(message) + '\n')

reply({
  ready: true,
  peer_id: node.peerId.toString(),
  addrs: node.getMultiaddrs().map((addr) => addr.toString())
})
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line)
  try {
    reply({ id: request.id, result: await requests[request.do](request) })
  } catch (error) {
    reply({ id: request.id, error: `${error.name}: ${error.message}` })
  }
}
process.exit(0)
