package import MeshModel
package import PeerDiscovery

/// What can happen in a simulation.
package enum SimulationEvent: Sendable {
  /// A device's timer may be due.
  case wake(Int, life: Int)
  /// Something reaches a process; nothing happens if that process is gone.
  case process(Int, life: Int, SimulatedInput)
  /// A datagram reaches a machine.
  case datagram(to: Int, stream: Int, counter: UInt64, [UInt8])
  /// A beacon reaches a machine.
  case beacon(to: Int, [UInt8], from: NetworkAddress)
  /// Multicast DNS tells a machine of a service on another one.
  case service(to: Int, of: Int, ServiceAnnouncement)
  /// A segment of a connection reaches the other side; the number is the side that sent it.
  case segment(Int, Int, StreamSegment)
  /// A direction of a connection tries again.
  case streamRetry(Int, Int)
  /// A direction of a connection looks whether all is confirmed.
  case streamCheck(Int, Int)
  /// A dial or a handshake may have taken too long.
  case streamDeadline(Int, side: Int, SimulatedStream.Phase)
  /// The next step of the scenario.
  case step(Int)
  /// The checkers look at everything.
  case inspect
}
