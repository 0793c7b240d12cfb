import AvahiDiscovery
import Glibc
import MeshModel
import PeerDiscovery
import Testing

/// Each test has a process and a lab of its own: the bus is a property of the process.
@Suite("Avahi, with real daemons", .serialized, .enabled(if: AvahiLab.isPossible, AvahiLab.requirement))
struct AvahiDiscoveryTests {
  @Test(
    "What is published is found elsewhere by Avahi's own browser, changes are seen, and stopping takes it back"
  )
  func publishes() async {
    await #expect(processExitsWith: .success) {
      let lab = try AvahiLab()
      lab.adoptBus()
      try lab.run("start a && start b")
      let discovery = try #require(AvahiDiscovery())
      let record = ServiceRecord(householdTag: 0xA, instance: InstanceTag(0xB))
      discovery.publish(ServiceAnnouncement(record: record, port: 4321))
      let report = await discovery.report { $0.establishedName != nil }
      #expect(report?.establishedName == "000000000000000b")
      #expect(report?.daemon == .running)
      #expect(report?.version?.hasPrefix("avahi") == true)
      #expect(report?.hostName == "lab-a.local")
      // Avahi's browser ends a second after its question, with or without an answer: one that came too late is asked
      // for again.
      try lab.run("await lists '^=.*;10.78.0.1;4321;.*\"ht=000000000000000a\"'")

      let inviting = ServiceRecord(householdTag: 0xA, instance: InstanceTag(0xB), pairing: 0x123)
      discovery.publish(ServiceAnnouncement(record: inviting, port: 4321))
      try lab.run("await lists '\"d=291\"'")

      await discovery.stop()
      #expect(discovery.report.daemon == .stopped)
      try lab.run("await lists_not 000000000000000b")
      var isEmpty = true
      for await event in discovery.events { if case .hint = event { isEmpty = false } }
      #expect(isEmpty, "nobody else was there, and the own service is no hint")
    }
  }

  @Test("Another host's service gives hints over IPv4 and, with the interface as scope, over link-local IPv6")
  func browses() async {
    await #expect(processExitsWith: .success) {
      let lab = try AvahiLab()
      lab.adoptBus()
      try lab.run("start a && start b")
      try lab.run("publish_on_b printer _hearth-mesh._tcp 9 v=7")
      try lab.run(
        "publish_on_b other _hearth-mesh._tcp 4321 pm=1 d=5 v=1 iid=00000000000000cc ht=00000000000000dd")
      let discovery = try #require(AvahiDiscovery())
      let line = try #require(try lab.run("ip -o link show eth0").first)
      let index = try #require(UInt32(line.prefix { $0 != ":" }))
      var wanted: Set<NetworkAddress> = [
        NetworkAddress(.v4(0x0A4E_0002), port: 4321),
        NetworkAddress(.v6(high: 0xFE80 << 48, low: 0xB, scope: index), port: 4321),
      ]
      while !wanted.isEmpty, let hint = await discovery.hint(where: { _ in true }) {
        #expect(hint.instance == InstanceTag(0xCC))
        #expect(hint.householdTag == 0xDD)
        #expect(hint.pairing == 5)
        #expect(hint.source == .avahi && hint.device == nil)
        #expect(wanted.remove(hint.address) != nil, "\(hint.address)")
      }
      #expect(wanted.isEmpty)
      await discovery.stop()
    }
  }

  @Test("A daemon that starts later, and one that was killed and comes back, are used without any help")
  func daemonComesAndGoes() async {
    await #expect(processExitsWith: .success) {
      let lab = try AvahiLab()
      lab.adoptBus()
      try lab.run("bus a start && start b")
      try lab.run(
        "publish_on_b other _hearth-mesh._tcp 4321 v=1 iid=00000000000000cc ht=00000000000000dd")
      let discovery = try #require(AvahiDiscovery())
      let record = ServiceRecord(householdTag: 0xA, instance: InstanceTag(0xB))
      discovery.publish(ServiceAnnouncement(record: record, port: 4321))
      #expect(await discovery.report { $0.daemon == .noDaemon } != nil)
      for life in 0..<3 {
        try lab.run("avahi a start")
        #expect(await discovery.hint { $0.instance == InstanceTag(0xCC) } != nil, "life \(life)")
        #expect(await discovery.report { $0.establishedName != nil } != nil, "life \(life)")
        try lab.run("avahi a kill")
        let report = await discovery.report { $0.daemon == .noDaemon }
        #expect(report?.rebuilds == life + 1)
        #expect(report?.publication == AvahiReport.Publication.none)
        #expect(report?.lastError?.code == -23, "Daemon connection failed")
      }
      await discovery.stop()
    }
  }

  @Test("A bus that starts later, and one that is restarted, are used without any help")
  func busComesAndGoes() async {
    await #expect(processExitsWith: .success) {
      let lab = try AvahiLab()
      lab.adoptBus()
      let discovery = try #require(AvahiDiscovery())
      let record = ServiceRecord(householdTag: 0xA, instance: InstanceTag(0xB))
      discovery.publish(ServiceAnnouncement(record: record, port: 4321))
      let report = await discovery.report { $0.daemon == .noBus }
      #expect(report?.retrySeconds == 1)
      #expect(report?.lastError != nil)
      for _ in 0..<2 {
        try lab.run("start a")
        let report = await discovery.report { $0.establishedName != nil }
        #expect(report?.daemon == .running)
        #expect(report?.retrySeconds == nil)
        // Debian's daemon ends with its bus.
        try lab.run("bus a stop && await ended a")
        #expect(await discovery.report { $0.daemon == .noBus } != nil)
      }
      await discovery.stop()
    }
  }

  @Test("When another host has the instance name, another name is taken")
  func collision() async {
    await #expect(processExitsWith: .success) {
      let lab = try AvahiLab()
      lab.adoptBus()
      try lab.run("start a && start b")
      try lab.run("publish_on_b 000000000000000b _hearth-mesh._tcp 1 v=1")
      let discovery = try #require(AvahiDiscovery())
      let record = ServiceRecord(householdTag: 0xA, instance: InstanceTag(0xB))
      discovery.publish(ServiceAnnouncement(record: record, port: 4321))
      // The network may notice while the name is being claimed or after that.
      let report = await discovery.report { $0.establishedName == "000000000000000b-2" }
      #expect(report?.collisions == 1)
      try lab.run("await lists '^=.*;000000000000000b-2;.*;4321;'")
      await discovery.stop()
    }
  }

  @Test("Records of other programs are counted and give no hint")
  func foreignRecords() async {
    await #expect(processExitsWith: .success) {
      let lab = try AvahiLab()
      lab.adoptBus()
      try lab.run("start a && start b")
      try lab.run("publish_on_b printer _hearth-mesh._tcp 9 v=7 iid=x")
      let discovery = try #require(AvahiDiscovery())
      #expect(await discovery.report { $0.daemon == .running } != nil)
      try lab.run(
        "publish_on_b zebra _hearth-mesh._tcp 4321 v=1 iid=00000000000000cc ht=00000000000000dd")
      #expect(await discovery.hint { _ in true }?.instance == InstanceTag(0xCC))
      #expect(discovery.report.refusedRecords > 0)
      await discovery.stop()
    }
  }
}

@Suite("Avahi, without any daemon")
struct AbsentAvahiTests {
  @Test("Without a system bus it says so, tries again ever more slowly, and stops when told")
  func noBus() async {
    await #expect(processExitsWith: .success) {
      setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus", 1)
      alarm(600)
      let discovery = try #require(AvahiDiscovery())
      let first = await discovery.report { $0.daemon == .noBus }
      #expect(first?.retrySeconds == 1)
      let second = await discovery.report { $0.retrySeconds == 2 }
      #expect(second?.daemon == .noBus)
      #expect(second?.lastError?.operation == "connecting to the system bus")
      await discovery.stop()
      await discovery.stop()
      #expect(discovery.report.daemon == .stopped)
    }
  }

  @Test("One that is dropped without being stopped ends its thread and its stream")
  func dropped() async {
    await #expect(processExitsWith: .success) {
      setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus", 1)
      alarm(600)
      let events: AsyncStream<AvahiDiscovery.Event>
      do {
        let discovery = try #require(AvahiDiscovery())
        events = discovery.events
      }
      var last: AvahiReport?
      for await case .report(let report) in events { last = report }
      #expect(last?.daemon == .stopped)
    }
  }

  @Test("Waits before another try are 1, 2, 4, 8, 16 and then 30 s")
  func waits() {
    #expect((1...8).map { AvahiLimits.retrySeconds(attempt: $0) } == [1, 2, 4, 8, 16, 30, 30, 30])
    #expect(AvahiLimits.retrySeconds(attempt: .max) == 30)
  }

  @Test("Every state of the daemon has a stable name and a next step")
  func states() {
    #expect(
      AvahiReport.Daemon.allCases.map(\.rawValue) == [
        "starting", "no-bus", "no-daemon", "registering", "host-name-collision", "running", "failed",
        "stopped",
      ])
    #expect(AvahiReport.Daemon.allCases.allSatisfy { !$0.nextStep.isEmpty })
  }
}
