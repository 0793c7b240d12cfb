package import MeshModel

/// The way that a message takes.
package enum MessagePath: UInt8, Hashable, Sendable, CaseIterable {
  /// An encrypted datagram; may be lost.
  case datagram = 1
  /// A frame of the control session.
  case session = 2
}

/// What happens to a device's membership.
package enum GossipInput: Hashable, Sendable {
  /// Time has passed; due at `nextDeadline`, harmless at any other time.
  case tick
  /// A message arrived from a device that has proved itself.
  case message([UInt8], from: DeviceID, over: MessagePath = .datagram)
  /// A message of an exchange of views arrived over the control session.
  case viewExchange([UInt8], from: DeviceID)
  /// Any other authenticated frame arrived; it proves life as well as an answered probe does.
  case heard(DeviceID)
  /// A round trip to the device was measured by other means.
  case measured(DeviceID, roundTrip: Duration)
  /// A control session with the device stands: it can be sent to.
  case reachable(DeviceID)
  /// The control session with the device ended: it cannot be sent to.
  case unreachablePath(DeviceID)
  /// The devices that trust knows as members; nobody else is believed or believed in.
  case roster([DeviceID])
  /// Trust has removed the device, for ever.
  case revoked(DeviceID)
  /// This device's own traits changed.
  case ownTraits(DeviceTraits)
  /// This device's own addresses changed.
  case ownAddresses([NetworkAddress])
  /// This device leaves: it tells the others and falls silent.
  case leave
}

/// What a device's membership wants done.
package enum GossipEffect: Hashable, Sendable {
  /// Send a datagram; it may be lost.
  case datagram(to: DeviceID, [UInt8])
  /// Send a gossip frame over the control session.
  case sessionMessage(to: DeviceID, [UInt8])
  /// Send a frame of an exchange of views over the control session.
  case viewExchange(to: DeviceID, [UInt8])
  /// A member is new or is believed otherwise; `from` is nil when it is new.
  case changed(MemberRecord, from: MemberState?)
  /// A member changed its traits, addresses or leader; its state stays.
  case updated(MemberRecord)
  /// The device that should lead now; a suggestion that saves work, never a safety device.
  case leaderSuggestion(DeviceID?)
  /// This device was asleep or stopped for about that long: sessions older than that want renewing.
  case away(Duration)
  /// Something from the device was dropped.
  case dropped(GossipDrop, from: DeviceID)
}

/// Why something that arrived was dropped.
package enum GossipDrop: String, Hashable, Sendable, CaseIterable {
  /// It does not decode, or stands where it does not belong.
  case malformed
  /// Its sender is not a member by trust.
  case strangerSender = "stranger-sender"
  /// It speaks of a device that is not a member by trust.
  case strangerSubject = "stranger-subject"
  /// It asks for more than is done for one member at a time.
  case overLimit = "over-limit"
  /// It answers a probe that is not under way with its sender.
  case unexpectedAnswer = "unexpected-answer"
}
