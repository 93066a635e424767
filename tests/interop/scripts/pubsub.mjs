// js-libp2p with GossipSub, as a process: JSON requests on stdin, JSON replies on stdout.
//
// node pubsub.mjs
// Copied beside its node_modules before it runs, because that is where node looks for them.

import { gossipsub } from '@libp2p/gossipsub'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify, identifyPush } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'
import { answerRequests } from './serving.mjs'

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

await answerRequests(node, {
  async subscribe ({ topic }) { node.services.pubsub.subscribe(topic); return null },
  subscribers: async ({ topic }) =>
    node.services.pubsub.getSubscribers(topic).map((peer) => peer.toString()),
  mesh: async ({ topic }) => node.services.pubsub.getMeshPeers(topic),
  async publish ({ topic, data }) {
    const { recipients } = await node.services.pubsub.publish(topic, Buffer.from(data, 'hex'))
    return recipients.length
  },
  heard: async () => heard.splice(0)
})
