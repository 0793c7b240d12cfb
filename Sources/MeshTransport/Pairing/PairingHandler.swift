import Determinism
import HouseholdTrust
import MeshModel
import NIOCore
import SecureChannel

/// An accepted pairing connection: bytes to the desk's machine, its effects to the connection.
final class PairingHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let machine: PairingMachine
  private let remote: NetworkAddress
  private let channel: any Channel
  private let outcome: EventLoopPromise<PairingFailure?>
  /// The other side has proved to know an invitation.
  private let proved: () -> Void
  private let early: ByteBuffer
  private var timer: Scheduled<Void>?
  private var isOver = false

  init(
    machine: PairingMachine, channel: any Channel, remote: NetworkAddress, early: ByteBuffer,
    proved: @escaping () -> Void
  ) {
    self.machine = machine
    self.channel = channel
    self.remote = remote
    self.early = early
    self.proved = proved
    outcome = channel.eventLoop.makePromise()
  }

  func handlerAdded(context: ChannelHandlerContext) {
    watchDeadline()
    perform(machine.receive(Array(early.readableBytesView)))
    context.read()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    perform(machine.receive(Array(unwrapInboundIn(data).readableBytesView)))
  }

  func channelReadComplete(context: ChannelHandlerContext) { context.read() }

  func channelInactive(context: ChannelHandlerContext) {
    timer?.cancel()
    perform(machine.breakOff())
    finish(.brokenOff)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

  private func perform(_ effects: [PairingEffect]) {
    for effect in effects where !isOver {
      switch effect {
      case .send(let bytes):
        channel.writeAndFlush(channel.allocator.buffer(bytes: bytes), promise: nil)
      case .approve(let request, let binding):
        proved()
        ask(request, binding)
      // A joiner's, which an inviter never has.
      case .admitted: break
      case .completed: finish(nil)
      case .failed(let failure): finish(failure)
      }
    }
  }

  private func ask(_ request: AdmissionRequest, _ binding: [UInt8]) {
    machine.ask(
      PairingRequest(
        request: request, binding: binding, token: machine.provenToken, remote: remote,
        outcome: outcome.futureResult,
        answer: { [channel] answer in
          channel.eventLoop.execute {
            let handler = try? channel.pipeline.syncOperations.handler(type: PairingHandler.self)
            guard let handler else { return }
            handler.perform(handler.machine.perform(answer))
          }
        }))
  }

  private func finish(_ failure: PairingFailure?) {
    guard !isOver else { return }
    isOver = true
    timer?.cancel()
    outcome.succeed(failure)
    // What was sent last goes out before the end.
    channel.close(mode: .output, promise: nil)
    let channel = self.channel
    channel.eventLoop.scheduleTask(in: .seconds(1)) { channel.close(promise: nil) }
  }

  /// The machine moves its deadline on while a person thinks, so it is asked again at each.
  private func watchDeadline() {
    let left = max(.zero, DeviceClocks.now().sinceBoot.duration(to: machine.deadline))
    timer = channel.eventLoop.assumeIsolated().scheduleTask(in: left.timeAmount + .milliseconds(1)) {
      [weak self] in
      guard let self, !self.isOver else { return }
      self.perform(self.machine.tick())
      if !self.isOver { self.watchDeadline() }
    }
  }
}
