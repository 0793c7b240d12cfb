import MeshModel
import MeshProtocol
import NIOCore

/// One end of a connection inside the process.
///
/// Safety: both ends are touched only by work of their network, which runs one piece at a time; `wake` and `resume`
/// only ask for such work.
final class InProcessLink: SessionLink, @unchecked Sendable {
  /// Bytes on their way above which the sender waits, as over sockets.
  private static let capacity = 512 << 10

  let remote: NetworkAddress
  private let network: InProcessNetwork
  private var core: SessionCore?
  private var other: InProcessLink?
  /// Written and not sent.
  private var unsent: [ByteBuffer] = []
  /// Sent by the other end and not read.
  private var inbox: [ByteBuffer] = []
  private var inboxBytes = 0
  private var isReading = true
  private var otherHasEnded = false
  private var isDelivering = false

  init(network: InProcessNetwork, remote: NetworkAddress) {
    self.network = network
    self.remote = remote
  }

  func connect(to other: InProcessLink) {
    self.other = other
    other.other = self
  }

  func begin(_ core: SessionCore) {
    self.core = core
    core.start()
    network.run { [self] in deliver() }
  }

  var isWritable: Bool { other.map { $0.inboxBytes < Self.capacity } ?? false }

  func makeBuffer(_ byteCount: Int) -> ByteBuffer { ByteBufferAllocator().buffer(capacity: byteCount) }

  func write(_ buffer: ByteBuffer) { unsent.append(buffer) }

  func flush() {
    guard let other, !unsent.isEmpty else { return unsent.removeAll() }
    other.inbox += unsent
    other.inboxBytes += unsent.reduce(0) { $0 + $1.readableBytes }
    unsent = []
    network.run { other.deliver() }
  }

  func setReading(_ isReading: Bool) {
    self.isReading = isReading
    if isReading { network.run { [self] in deliver() } }
  }

  func close(reset: Bool) {
    guard let other else { return }
    flush()
    self.other = nil
    other.otherHasEnded = true
    network.run {
      other.deliver()
    }
  }

  func closeGently() { close(reset: false) }

  func closeSoon() {
    // Memory has no silent peers, only ones that do not read; they are not waited for.
    network.run { [self] in core?.end(.disconnected) }
  }

  func wasAuthenticated() {}

  var wake: @Sendable () -> Void { { [self] in network.run { [self] in core?.pump() } } }

  var resume: @Sendable () -> Void { { [self] in network.run { [self] in setReading(true) } } }

  private func deliver() {
    guard let core, !isDelivering else { return }
    isDelivering = true
    defer { isDelivering = false }
    while isReading, !inbox.isEmpty {
      var buffer = inbox.removeFirst()
      inboxBytes -= buffer.readableBytes
      buffer.withUnsafeMutableReadableBytes { core.receive($0) }
    }
    if let other, inboxBytes < Self.capacity { network.run { other.core?.pump() } }
    if otherHasEnded, inbox.isEmpty {
      otherHasEnded = false
      other = nil
      core.end(.disconnected)
      self.core = nil
    }
  }
}
