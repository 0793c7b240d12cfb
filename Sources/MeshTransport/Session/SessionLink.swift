import HouseholdTrust
import MeshModel
import MeshProtocol
import NIOCore

/// The connection under a session: it carries bytes in both directions and knows no keys.
///
/// A link and its session live in one place (an event loop, or the lock of an in-process network) and are used only
/// there, but for `wake` and `resume`.
protocol SessionLink: AnyObject {
  /// Where the other side is seen.
  var remote: NetworkAddress { get }
  /// Whether the connection takes more now.
  var isWritable: Bool { get }
  /// An empty buffer for so many bytes.
  func makeBuffer(_ byteCount: Int) -> ByteBuffer
  /// Queues bytes.
  func write(_ buffer: ByteBuffer)
  /// Sends what is queued.
  func flush()
  /// Stops or goes on reading.
  func setReading(_ isReading: Bool)
  /// Closes now; `reset` leaves no trace in the kernel.
  func close(reset: Bool)
  /// Sends what is queued and closes when the other side has, at the latest after the time for goodbyes.
  func closeGently()
  /// Closes after the time for goodbyes, whatever still waits.
  func closeSoon()
  /// The other side has proved itself.
  func wasAuthenticated()
  /// Has the session look at its send queue; from any thread.
  var wake: @Sendable () -> Void { get }
  /// Has the session read on; from any thread.
  var resume: @Sendable () -> Void { get }
}

/// An address that the owner has asked to dial.
struct DialRequest: Sendable {
  let address: NetworkAddress
  let purpose: SessionPurpose
  let expecting: DeviceID?
  /// An older network key, for when the other side may not know the current one.
  var offering: NetworkKey?
  /// Dials once more with an older key; nil when that has been done, or there is none.
  var again: (@Sendable () -> Void)?
}
