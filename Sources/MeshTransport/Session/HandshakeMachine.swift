import MeshModel
import MeshProtocol
import SecureChannel

/// A handshake that decides from bytes what to send, and in the end who the other side is.
protocol HandshakeMachine: AnyObject {
  /// What this side says first.
  func start() -> [HandshakeStep]
  /// Takes bytes as they arrive, however they are cut.
  func receive(_ bytes: UnsafeRawBufferPointer) -> [HandshakeStep]
}

/// What a handshake has its connection do.
enum HandshakeStep {
  case send([UInt8])
  /// The other side has proved itself; the last step.
  case established(ProvedPeer)
  /// It has not; the last step. The reason is what a listener counts it as.
  case failed(DialFailure, DropReason)
}

/// The other side of a finished handshake, and the keys that came of it.
struct ProvedPeer {
  let device: DeviceID
  let boot: BootID
  let standing: SessionStanding
  let wireVersion: UInt8
  let offeredVersions: WireVersions
  let listeningPort: UInt16
  let keys: SessionKeys
  /// Nil for all but control sessions.
  let datagrams: DatagramKeys?
  /// Bytes that arrived behind the handshake's last.
  let leftover: [UInt8]
}
