import Determinism
import MeshSimulator
import Testing

@Suite struct SimulatedNetworkTests {
  private func network() -> SimulatedNetwork {
    SimulatedNetwork(deviceCount: 3, conditions: LinkConditions(), seed: 1)
  }

  private func seconds(_ value: Int64) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: value * 1_000_000_000)
  }

  private func arrives(_ outcome: LinkOutcome) -> Bool { if case .arrives = outcome { true } else { false } }

  @Test func aCutIsOfOneDirection() {
    var network = network()
    network.cut(from: 0, to: 1, true)
    #expect(!network.carries(from: 0, to: 1))
    #expect(network.carries(from: 1, to: 0))
    #expect(!network.connects(0, 1))
    #expect(network.connects(0, 2))
    network.mend()
    #expect(network.connects(0, 1))
  }

  @Test func aPartitionLetsGroupsTalkAmongThemselves() {
    var network = network()
    network.partition([0, 1, 0])
    #expect(network.connects(0, 2))
    #expect(!network.connects(0, 1))
    #expect(!arrives(network.sendDatagram(byteCount: 100, from: 0, to: 1, at: .zero)))
  }

  @Test func aFirewallLetsAnswersInForThirtySeconds() {
    var network = network()
    network.setInbound(of: 1, .dropped)
    #expect(!arrives(network.sendDatagram(byteCount: 100, from: 0, to: 1, at: .zero)))
    #expect(arrives(network.sendDatagram(byteCount: 100, from: 1, to: 0, at: seconds(1))))
    #expect(arrives(network.sendDatagram(byteCount: 100, from: 0, to: 1, at: seconds(31))))
    #expect(!arrives(network.sendDatagram(byteCount: 100, from: 0, to: 1, at: seconds(32))))
    #expect(network.canConnect(0, 1), "the device behind the firewall can dial")
    network.setInbound(of: 0, .rejected)
    #expect(!network.canConnect(0, 1), "neither can")
  }

  @Test func bytesAreCountedWhenTheyAreSent() {
    var network = network()
    network.cut(from: 0, to: 1, true)
    _ = network.sendDatagram(byteCount: 100, from: 0, to: 1, at: .zero)
    _ = network.sendSegment(byteCount: 52, from: 0, to: 2, at: .zero)
    network.countMulticast(byteCount: 78, from: 0)
    #expect(network.unicastBytes == [152, 0, 0])
    #expect(network.multicastBytes == [78, 0, 0])
  }
}
