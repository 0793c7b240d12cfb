import Determinism
import TrainingCoordination

/// Streams between the devices of a plan epoch.
extension JobSimulation {
  /// Time between two attempts to reach a device that has not opened its channel yet.
  private static let dialInterval: Duration = .milliseconds(250)
  /// How long a device tries.
  private static let dialLimit: Duration = .seconds(8)
  /// How long a stream may get nothing through.
  private static let stallLimit: Duration = .seconds(3)
  /// Milliseconds for which buffers keep what a stream held at its end.
  private static let lingering = 100...4_000

  mutating func openChannel(_ certificate: PlanCertificate, household: [Int], place: Int, _ device: Int) {
    channels += 1
    let participants = certificate.proposal.plan.places
    let isNeeded = participants.contains(place)
    devices[device].process?.channel = JobChannelEnd(
      number: channels, stamp: certificate.stamp, place: place, devices: household,
      optional: Set(household.indices.filter { !isNeeded || !participants.contains($0) }), opened: now,
      links: household.map { _ in JobLinkEnd() })
    devices[device].process?.finishedStamp = nil
    dial(device, channels)
  }

  mutating func dial(_ device: Int, _ number: Int) {
    guard let channel = devices[device].process?.channel, channel.number == number else { return }
    let waiting = channel.links.indices.filter { $0 != channel.place && channel.links[$0].state == .dialling }
    guard !waiting.isEmpty else { return }
    if channel.opened.duration(to: now) >= Self.dialLimit {
      for place in waiting { lose(place, channel: number, at: device) }
      return
    }
    if devices[device].isRunning {
      for place in waiting { transmit(.hello(isReply: false), channel, to: place, device) }
    }
    plan(.dial(device, channel: number), after: Self.dialInterval)
  }

  private mutating func transmit(
    _ body: JobBulkFrame.Body, _ channel: JobChannelEnd, to place: Int, _ device: Int
  ) {
    transmit(
      JobBulkFrame(
        from: device, to: channel.devices[place], stamp: channel.stamp, channel: channel.number, body: body))
  }

  private mutating func transmit(_ frame: JobBulkFrame) {
    guard network.connects(frame.from, frame.to) else { return }
    var bytes = 100
    if case .message(let message) = frame.body { bytes = message.payload.byteCount }
    let time = network.segment(bytes: bytes, from: frame.from, to: frame.to, at: now)
    queue.plan(.bulk(frame), at: time)
  }

  /// Whether what is sent now gets through to a machine that is awake.
  private func getsThrough(_ from: Int, _ to: Int) -> Bool {
    network.connects(from, to) && devices[to].machine == .on
  }

  mutating func send(_ message: StandInMessage, to place: Int, _ device: Int) {
    record.bulkMessages += 1
    put(message, to: place, device)
  }

  private mutating func put(_ message: StandInMessage, to place: Int, _ device: Int) {
    guard let channel = devices[device].process?.channel else { return }
    let link = channel.links[place]
    switch link.state {
    case .lost, .finished: return
    case .dialling: devices[device].process?.channel?.links[place].queue.append(message)
    case .open where link.isTorn: linger(message, channel, to: place, device)
    case .open where link.queue.isEmpty && getsThrough(device, channel.devices[place]):
      transmit(.message(message), channel, to: place, device)
    case .open:
      devices[device].process?.channel?.links[place].queue.append(message)
      guard link.stalledSince == nil else { return }
      devices[device].process?.channel?.links[place].stalledSince = now
      plan(.stalled(device, channel: channel.number, place: place, since: now), after: Self.stallLimit)
    }
  }

  mutating func giveUp(_ device: Int, _ number: Int, _ place: Int, since: MonotonicInstant) {
    guard let channel = devices[device].process?.channel, channel.number == number,
      channel.links[place].stalledSince == since
    else { return }
    plan(.lost(device, channel: number, place: place), after: .zero)
  }

  /// What waited goes out where the network carries again.
  mutating func flushStreams() {
    let waiting = leftovers
    leftovers = []
    for frame in waiting where devices[frame.from].machine != .off && devices[frame.to].machine != .off {
      if getsThrough(frame.from, frame.to) { transmit(frame) } else { leftovers.append(frame) }
    }
    for device in devices.indices {
      guard let channel = devices[device].process?.channel else { continue }
      for place in channel.links.indices {
        let link = channel.links[place]
        guard link.state == .open, !link.queue.isEmpty, getsThrough(device, channel.devices[place]) else {
          continue
        }
        for message in link.queue { transmit(.message(message), channel, to: place, device) }
        devices[device].process?.channel?.links[place].queue = []
        devices[device].process?.channel?.links[place].stalledSince = nil
      }
    }
  }

  // MARK: - Arrivals

  mutating func arrive(_ frame: JobBulkFrame) {
    let device = frame.to
    guard devices[device].machine != .off else {
      if case .message = frame.body { blame(frame, after: Self.stallLimit) }
      return
    }
    guard devices[device].process != nil else {
      if case .message = frame.body { answerReset(frame) }
      return
    }
    guard canTake(.bulk(frame), device) else { return }
    switch frame.body {
    case .hello(let isReply): greet(frame, isReply: isReply)
    case .reset:
      guard let channel = devices[device].process?.channel, channel.number == frame.channel,
        let place = channel.devices.firstIndex(of: frame.from)
      else { return }
      lose(place, channel: channel.number, at: device)
    case .abort:
      guard isOfLink(frame) else { return }
      stopRun(device, .elsewhere, "device \(frame.from) has given up")
    case .finish:
      guard isOfLink(frame), let place = place(of: frame) else { return }
      devices[device].process?.channel?.links[place].state = .finished
      stepRun(device) { $0.forgo(place, isOrderly: true, &$1) }
    case .message: deliver(frame, isLate: false)
    }
  }

  private func place(of frame: JobBulkFrame) -> Int? {
    devices[frame.to].process?.channel?.devices.firstIndex(of: frame.from)
  }

  /// Fencing: of this plan epoch, and of the stream that was greeted under it.
  private func isOfLink(_ frame: JobBulkFrame) -> Bool {
    guard let channel = devices[frame.to].process?.channel, channel.stamp == frame.stamp,
      let place = channel.devices.firstIndex(of: frame.from)
    else { return false }
    return channel.links[place].state == .open && channel.links[place].peer == frame.channel
  }

  private mutating func greet(_ frame: JobBulkFrame, isReply: Bool) {
    guard let channel = devices[frame.to].process?.channel, channel.stamp == frame.stamp,
      let place = place(of: frame)
    else { return }
    let link = channel.links[place]
    guard link.state != .lost, link.state != .finished else { return }
    if link.state == .open, link.peer != frame.channel {
      return lose(place, channel: channel.number, at: frame.to)
    }
    devices[frame.to].process?.channel?.links[place].peer = frame.channel
    devices[frame.to].process?.channel?.links[place].state = .open
    if !isReply { transmit(.hello(isReply: true), channel, to: place, frame.to) }
    let waiting = devices[frame.to].process?.channel?.links[place].queue ?? []
    devices[frame.to].process?.channel?.links[place].queue = []
    // The greeting may have been under way when the network broke: what does not get through waits on.
    for message in waiting { put(message, to: place, frame.to) }
  }

  /// A message reaches a process, out of the network or, late, out of a buffer.
  mutating func deliver(_ frame: JobBulkFrame, isLate: Bool) {
    guard case .message(let message) = frame.body else { return }
    let device = frame.to
    let place = devices[device].process?.run == nil ? nil : place(of: frame)
    let isFenced = !isOfLink(frame)
    if isFenced, place != nil { record.fencedInRun += 1 }
    if let place, !isFenced || devices[device].misbehaviour == .ignoresStamps {
      return stepRun(device) { $0.receive(message, from: place, &$1) }
    }
    guard !isLate else { return }
    record.fenced += 1
    linger(frame)
    if devices[device].process?.finishedStamp != frame.stamp { answerReset(frame) }
  }

  /// Whether a connection breaks at this message; it comes late then.
  mutating func tear(_ message: StandInMessage, to place: Int, _ device: Int) -> Bool {
    guard let moment = tearing, moment.contains(message.tag.kind),
      let channel = devices[device].process?.channel,
      channel.links[place].state == .open, channel.links[place].queue.isEmpty
    else { return false }
    tearing = nil
    let other = channel.devices[place]
    note(26, device, other, "\(device) > \(other)  the connection breaks at \(moment)")
    devices[device].process?.channel?.links[place].isTorn = true
    linger(message, channel, to: place, device)
    reset(device, other)
    return true
  }

  private mutating func linger(
    _ message: StandInMessage, _ channel: JobChannelEnd, to place: Int, _ device: Int
  ) {
    linger(
      JobBulkFrame(
        from: device, to: channel.devices[place], stamp: channel.stamp, channel: channel.number,
        body: .message(message)))
  }

  /// Buffers of a stream that has ended hand out what they hold when a later run may be under way.
  private mutating func linger(_ frame: JobBulkFrame) {
    // One delay a stream: what it holds stays in order.
    var dice = SeededGenerator(seed: plan.seed, 0x6C61_7465, UInt64(frame.channel), UInt64(frame.to))
    let delay = Self.lingering.lowerBound + dice.uniform(below: Self.lingering.count)
    plan(.late(frame, life: devices[frame.to].life), after: .milliseconds(delay))
  }

  /// Tells the sender that there is nobody.
  private mutating func answerReset(_ frame: JobBulkFrame) {
    transmit(
      JobBulkFrame(
        from: frame.to, to: frame.from, stamp: frame.stamp, channel: frame.channel, body: .reset))
  }

  /// The sender finds out that a stream leads nowhere.
  private mutating func blame(_ frame: JobBulkFrame, after delay: Duration) {
    guard let channel = devices[frame.from].process?.channel, channel.number == frame.channel,
      let place = channel.devices.firstIndex(of: frame.to)
    else { return }
    plan(.lost(frame.from, channel: channel.number, place: place), after: delay)
  }

  // MARK: - Ends

  /// A stream is gone for a device.
  mutating func lose(_ place: Int, channel number: Int, at device: Int) {
    guard let channel = devices[device].process?.channel, channel.number == number,
      channel.links[place].state != .lost, channel.links[place].state != .finished
    else { return }
    note(14, device, place, "\(device) loses its stream to \(channel.devices[place])")
    devices[device].process?.channel?.links[place].state = .lost
    devices[device].process?.channel?.links[place].queue = []
    if channel.optional.contains(place) {
      stepRun(device) { $0.forgo(place, isOrderly: false, &$1) }
    } else {
      stopRun(device, .device(devices[channel.devices[place]].id), "the connection ended")
    }
  }

  mutating func closeChannel(_ device: Int, tells: Bool) {
    guard let channel = devices[device].process?.channel else { return }
    for place in channel.links.indices where channel.links[place].state == .open {
      // Orderly ends go behind what still waits; a stream that stands still hears nothing.
      let waiting = channel.links[place].queue
      let other = channel.devices[place]
      let isTorn = channel.links[place].isTorn
      if !tells, !isTorn, !waiting.isEmpty || !getsThrough(device, other) {
        // What was sent before an orderly end still arrives, if anything does.
        leftovers += (waiting.map { .message($0) } + [.finish]).map {
          JobBulkFrame(
            from: device, to: other, stamp: channel.stamp, channel: channel.number, body: $0)
        }
        continue
      }
      for message in waiting { linger(message, channel, to: place, device) }
      guard waiting.isEmpty, !isTorn else { continue }
      transmit(tells ? .abort : .finish, channel, to: place, device)
    }
    devices[device].process?.channel = nil
    if !tells { devices[device].process?.finishedStamp = channel.stamp }
  }

  /// The kernel of a killed process closes its streams.
  mutating func breakStreams(of device: Int) {
    guard let gone = devices[device].process?.channel else { return }
    for other in devices.indices where other != device && network.connects(device, other) {
      guard let channel = devices[other].process?.channel,
        let place = channel.devices.firstIndex(of: device), channel.links[place].peer == gone.number
      else { continue }
      let delay = Duration.milliseconds(1 + chance.uniform(below: 60))
      plan(.lost(other, channel: channel.number, place: place), after: delay)
    }
  }
}
