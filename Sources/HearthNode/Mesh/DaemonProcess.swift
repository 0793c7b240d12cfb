package import Logging
import MeshTransport
import TensorKernels

/// The process of `hearth up`: a daemon from its start to the signal that ends it.
package enum DaemonProcess {
  /// Runs a daemon until SIGTERM, SIGINT or its own end; SIGHUP does nothing.
  package static func run(
    _ options: HouseholdDaemon.Options, log: Logger, environment: [String: String],
    started: @escaping @Sendable (_ port: UInt16) -> Void = { _ in }
  ) throws {
    AllocatorSettings.keepFreedMemory()
    ignoreHangUp()
    let flag = CancellationFlag()
    let (stops, continuation) = AsyncStream.makeStream(of: Void.self)
    InterruptWatch.start(flag) { continuation.yield() }
    let manager = ServiceNotification(environment: environment)
    try waitForTask {
      let daemon = try await HouseholdDaemon.start(options, log: log)
      let port = daemon.doors.transport.localPort
      manager.ready(status: "listening on port \(port)")
      started(port)
      let watch = Task {
        for await _ in stops {
          manager.stopping()
          await daemon.stop()
        }
      }
      await daemon.waitUntilStopped()
      watch.cancel()
    }
  }
}
