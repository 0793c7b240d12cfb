package import HouseholdTrust
package import MeshProtocol

/// One device's door to the mesh: sessions and datagrams in, sessions and datagrams out.
///
/// `NetworkTransport` is the real one, `InProcessTransport` carries the same sessions through memory; one suite of
/// tests holds both to this contract:
/// - every `dial` ends in exactly one `opened` or `dialFailed`;
/// - every `opened` is followed by exactly one `closed`, and nothing follows that;
/// - frames of a session arrive in the order in which they were sent, or the session closes;
/// - a slow reader of `events` slows its senders down; it never loses `opened`, `closed` or a frame.
package protocol MeshEndpoint: AnyObject, Sendable {
  /// What happened, for one reader; ends after `shutdown()`.
  var events: AsyncStream<TransportEvent> { get }
  /// The port on which sessions are accepted.
  var localPort: UInt16 { get }
  /// What has been counted since the start.
  var counters: TransportCounters { get }
  /// Does what is asked, in order; returns at once.
  func perform(_ commands: [TransportCommand])
  /// Bytes of frames that a session takes before `send` would be refused; 0 when it is not open.
  func room(in session: SessionID) -> Int
  /// From now on frames of kind `bulk` go to this receiver and not to `events`; set before the first session opens.
  func receiveBulk(at receiver: any BulkReceiver)
  /// Reads a session on that its receiver has stopped.
  func resume(_ session: SessionID)
  /// Counts and reports something that the owner dropped.
  func drop(_ reason: DropReason)
  /// Takes a newer state of the household; sessions with devices that it revokes are closed.
  func update(trust: TrustSnapshot)
  /// Says goodbye on all sessions, closes them, and ends `events`.
  func shutdown() async
}

/// Takes the bulk data of sessions where their connections live, beside the owner's events.
///
/// Tensors do not queue behind gossip, and gossip not behind tensors. Calls for one session come one after the other,
/// on a thread of the transport, which they must not hold up: `opened`, then frames, then `closed`. The owner reads of
/// `opened` and `closed` in `events` as well.
package protocol BulkReceiver: AnyObject, Sendable {
  /// A bulk session with full standing stands; the transport's table is locked, so it must not be called from here.
  func opened(_ session: SessionID, _ info: SessionInfo)
  /// A frame of kind `bulk` where it was decrypted, to be taken without a copy; nil when `received` is to have it.
  ///
  /// The answer is that of `received`.
  func take(_ frame: BulkFrame, on session: SessionID) -> Bool?
  /// A frame of kind `bulk`; false stops reading until `MeshEndpoint.resume`, but for what has been read already.
  func received(_ frame: MeshFrame, on session: SessionID) -> Bool
  /// The session's send queue has fallen below its low mark.
  func writable(_ session: SessionID)
  /// The session ended.
  func closed(_ session: SessionID, _ reason: CloseReason)
}

extension BulkReceiver {
  /// Takes no frame where it lies.
  package func take(_ frame: BulkFrame, on session: SessionID) -> Bool? { nil }
}

/// What a transport has counted since its start.
package struct TransportCounters: Sendable, Equatable {
  /// Things from outside that were dropped, by reason.
  package var drops: [DropReason: UInt64] = [:]
  /// Connections that were accepted, refused ones included.
  package var accepted: UInt64 = 0
  /// Sessions that were opened.
  package var opened: UInt64 = 0
  /// Bytes of records that were sent, their lengths and tags included.
  package var sentBytes: UInt64 = 0
  /// Bytes of records that were received, their lengths and tags included.
  package var receivedBytes: UInt64 = 0
  /// Datagrams that were sent.
  package var sentDatagrams: UInt64 = 0
  /// Datagrams that were received and opened.
  package var receivedDatagrams: UInt64 = 0

  /// Counters at zero.
  package init() {}

  /// How many things were dropped for one reason.
  package subscript(reason: DropReason) -> UInt64 { drops[reason] ?? 0 }
}
