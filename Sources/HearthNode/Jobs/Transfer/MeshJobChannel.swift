package import DistributedTraining
package import MeshModel
import MeshProtocol
import MeshTransport
import Synchronization
package import TrainingCoordination

/// The messages of one plan epoch over bulk sessions of the mesh; made by `BulkDesk.openChannel`.
///
/// There is a link to each other device of the household. When one to a device that the plan needs fails, all do, and the
/// other devices are told why before the sessions end, so that nobody waits for a message that will not come. A device at
/// an optional place is fed, or hands over, beside the run: its loss, and what it says of others, fails its own link.
package final class MeshJobChannel: JobChannel {
  /// The plan epoch.
  package let stamp: JobStamp
  /// This device's place in the plan's household.
  package let place: Int
  /// The devices of the plan, by place.
  package let roster: [DeviceID]
  /// The places of those that the plan does without, ascending.
  package let optional: [Int]

  private let links: [JobLink]
  private let end = Mutex(End())

  private struct End {
    var failure: JobChannelFailure?
    var isClosing = false
  }

  init(
    _ stamp: JobStamp, roster: [DeviceID], optional: Set<Int>, own: DeviceID,
    transport: any MeshEndpoint, dial: @escaping @Sendable (DeviceID) -> Void
  ) {
    guard let place = roster.firstIndex(of: own) else {
      preconditionFailure("device \(own) is none of the plan's \(roster.count)")
    }
    precondition(Set(roster).count == roster.count, "a plan names a device twice")
    self.stamp = stamp
    self.place = place
    self.roster = roster
    self.optional = optional.sorted()
    links = roster.enumerated().map {
      JobLink(
        to: $1, at: $0, isOptional: optional.contains($0), own: own, stamp: stamp, transport: transport,
        dial: dial)
    }
  }

  /// Why the channel gave up; nil while it works.
  package var failure: JobChannelFailure? { end.withLock { $0.failure } }

  /// Bytes of frames that went to each device and came from it, by place.
  package var traffic: [(sent: UInt64, received: UInt64)] { links.map(\.traffic) }

  /// Blocks until there is a connection to every other device that the plan needs; `send` and `receive` do not ask for it.
  package func waitUntilOpen() throws(JobChannelFailure) {
    for link in links where link.place != place && !link.isOptional {
      try following(link) { () throws(JobChannelFailure) in try link.waitUntilOpen() }
    }
  }

  /// Hands a message over; returns when the link has taken it, not when it has arrived.
  package func send(_ message: [UInt8], _ tag: JobTag, to place: Int) throws(JobChannelFailure) {
    precondition(links.indices ~= place, "place \(place) of \(links.count)")
    precondition(
      message.count <= JobLinkLimits.message,
      "a message of \(message.count) bytes; the limit is \(JobLinkLimits.message)")
    let link = links[place]
    guard place != self.place else { return try link.loopBack(message, tag) }
    try following(link) { () throws(JobChannelFailure) in try link.send(message, tag) }
  }

  /// The next message with this tag from that device.
  package func receive(_ tag: JobTag, from place: Int) throws(JobChannelFailure) -> [UInt8] {
    precondition(links.indices ~= place, "place \(place) of \(links.count)")
    let link = links[place]
    return try following(link) { () throws(JobChannelFailure) in try link.receive(tag) }
  }

  /// The next message with this tag from that device, if it is there already.
  package func poll(_ tag: JobTag, from place: Int) throws(JobChannelFailure) -> [UInt8]? {
    precondition(links.indices ~= place, "place \(place) of \(links.count)")
    let link = links[place]
    return try following(link) { () throws(JobChannelFailure) in try link.poll(tag) }
  }

  /// Stops the job on all devices of the plan; the reason is for people.
  package func abort(_ reason: String) { fail(.aborted(reason)) }

  /// A device is known to be gone, from gossip for instance: the channel fails on all others if the plan needs it.
  package func lost(place: Int) {
    precondition(links.indices ~= place, "place \(place) of \(links.count)")
    fail(.lost(place: place), of: links[place])
  }

  /// Ends the channel in order, after the last message was sent; what has been sent still arrives.
  ///
  /// The sessions end when the other devices have closed too.
  package func close() {
    end.withLock { $0.isClosing = true }
    for link in links where link.place != place { link.finish() }
  }

  // MARK: - For the desk

  /// Whether this side has sent all.
  var isClosing: Bool { end.withLock { $0.isClosing } }

  func link(to device: DeviceID) -> JobLink? {
    links.first { $0.device == device && $0.place != place }
  }

  /// Dials what this side is to dial.
  func begin() {
    for link in links where link.place != place { link.dialIfDue() }
  }

  /// Fails everything here and tells the other devices; the first failure counts.
  func fail(_ failure: JobChannelFailure) {
    let isFirst = end.withLock { end in
      defer { end.failure = end.failure ?? failure }
      return end.failure == nil
    }
    guard isFirst else { return }
    for link in links { link.fail(failure, tells: link.place != place) }
  }

  /// What a link failed with, or was told: everything fails unless the plan does without the device.
  func fail(_ failure: JobChannelFailure, of link: JobLink) {
    guard link.isOptional, link.place != place else { return fail(failure) }
    link.fail(.lost(place: link.place), tells: false)
  }

  /// The failure of a link is that of the channel, so that others learn of it.
  private func following<Value>(
    _ link: JobLink, _ body: () throws(JobChannelFailure) -> Value
  ) throws(JobChannelFailure) -> Value {
    do throws(JobChannelFailure) { return try body() } catch {
      // After the end there is nothing left for others to fail with.
      if isClosing { throw error }
      fail(error, of: link)
      throw failure ?? (link.isOptional ? .lost(place: link.place) : error)
    }
  }
}
