// The trackers' own clients tell one story to the server whose URL is given: an
// anonymous visit, its naming by a link, an event with properties, a property
// alone, and a second person on the browser.
import { Analytics } from '@segment/analytics-node'
import { PostHog } from 'posthog-node'
import Mixpanel from 'mixpanel'

const host = process.argv[2]
const patience = 120_000 // a machine may be busy
const timestamp = new Date('2026-01-02T03:04:05.678Z')
const X = 'ABCDEFGHI2KLMNOPQRSTUVW345', name = 'jane@example.org'
const properties = { 'Link location': '<top> & é' }
const id = n => 'a000000000000000000000000000000' + n
const uuid = n => 'a0000000-0000-0000-0000-00000000000' + n

const segment = new Analytics({ writeKey: 'KEY', host, flushAt: 100, httpRequestTimeout: patience })
segment.track({ anonymousId: X, event: 'Visited', properties, timestamp, messageId: id(0) })
segment.identify({ anonymousId: X, userId: name, timestamp, messageId: id(1) })
segment.track({ userId: name, anonymousId: X, event: 'Clicked', timestamp, messageId: id(2) })
segment.track({ userId: name, event: 'Bought', properties, timestamp, messageId: id(3), context: { ip: '192.0.2.1', userAgent: 'B/1' } })
segment.identify({ userId: name, traits: { plan: 'pro' }, timestamp, messageId: id(4) })
segment.track({ userId: 'bob', event: 'Visited', timestamp, messageId: id(5) })
await segment.closeAndFlush({ timeout: patience })

const posthog = new PostHog('KEY', { host, flushAt: 100, requestTimeout: patience })
posthog.capture({ distinctId: X, event: 'Visited', properties: { ...properties, $process_person_profile: false }, timestamp, uuid: uuid(0) })
posthog.capture({ distinctId: name, event: '$identify', properties: { $anon_distinct_id: X }, timestamp, uuid: uuid(1) })
posthog.capture({ distinctId: name, event: 'Clicked', timestamp, uuid: uuid(2) })
posthog.capture({ distinctId: name, event: 'Bought', properties: { ...properties, $ip: '192.0.2.1', $raw_user_agent: 'B/1' }, timestamp, uuid: uuid(3), disableGeoip: false })
posthog.capture({ distinctId: name, event: '$set', properties: { $set: { plan: 'pro' } }, timestamp, uuid: uuid(4) })
posthog.capture({ distinctId: 'bob', event: 'Visited', timestamp, uuid: uuid(5) })
await posthog.shutdown(patience)

const mixpanel = Mixpanel.init('KEY', { host: new URL(host).host, secret: 'KEY' })
const sent = send => new Promise(done => send(error => { if (error) console.error(error); done() }))
const event = (name, n, more) => ({ event: name, properties: { time: timestamp, $insert_id: id(n), ...more } })
await sent(done => mixpanel.import_batch([
  event('Visited', 0, { $device_id: X, ...properties }),
  event('Clicked', 2, { $device_id: X, $user_id: name }),
  event('Bought', 3, { $user_id: name, ...properties, ip: '192.0.2.1', $user_agent: 'B/1' }),
  event('Visited', 5, { $user_id: 'bob' }),
], done))
await sent(done => mixpanel.people.set(name, { plan: 'pro' }, done))
