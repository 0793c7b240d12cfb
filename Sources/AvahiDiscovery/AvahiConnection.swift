import CAvahi
import Glibc
import MeshModel
import PeerDiscovery
import Synchronization

/// The one owner of Avahi's pointers.
///
/// Avahi's thread runs all callbacks and all calls; other threads only leave a wish and wake it. A client that
/// has failed is never repaired but built anew, from a timer and not from inside its own callback.
// Safety: every stored pointer is touched on Avahi's thread only, except in `start` before that thread runs and
// in `end` after it has been joined; what other threads reach (`shared`, `pipe`, `output`) guards itself.
final class AvahiConnection: @unchecked Sendable {
  /// What other threads read and write.
  private struct Shared {
    var wanted: ServiceAnnouncement?
    var report = AvahiReport()
  }

  /// A service on one interface and in one address family.
  struct ServiceKey: Hashable {
    let name: String
    let interface: AvahiIfIndex
    let family: AvahiProtocol
  }

  /// A service that the daemon says is there.
  struct Service {
    let domain: String
    var resolver: OpaquePointer?
    var failures = 0
  }

  private let serviceType: String
  private let output: AsyncStream<AvahiDiscovery.Event>.Continuation
  private let shared = Mutex(Shared())
  private let pipe: WakePipe
  private let thread: OpaquePointer
  private let poll: UnsafePointer<AvahiPoll>

  private var pipeWatch: OpaquePointer?
  private var rebuildTimer: OpaquePointer?
  private var republishTimer: OpaquePointer?
  private var resolveTimer: OpaquePointer?
  private var client: OpaquePointer?
  private var browser: OpaquePointer?
  private var group: OpaquePointer?
  private var services: [ServiceKey: Service] = [:]
  private var failures = 0
  private var isBuilding = false
  private var isRunning = false
  private var publishFailures = 0
  /// What the group holds: nothing, or this under this name.
  private var held: (announcement: ServiceAnnouncement, name: String)?
  private var ownInstances: [InstanceTag] = []
  /// The same instance under another name, after a collision.
  private var nameSuffix = 1

  init?(serviceType: String, output: AsyncStream<AvahiDiscovery.Event>.Continuation) {
    guard let pipe = WakePipe() else { return nil }
    guard let thread = avahi_threaded_poll_new() else { return nil }
    guard let poll = avahi_threaded_poll_get(thread) else {
      avahi_threaded_poll_free(thread)
      return nil
    }
    self.serviceType = serviceType
    self.output = output
    self.pipe = pipe
    self.thread = thread
    self.poll = poll
  }

  /// Starts Avahi's thread; the first call to the daemon is made there, because it may block.
  func start() -> Bool {
    let me = Unmanaged.passUnretained(self).toOpaque()
    pipeWatch = poll.pointee.watch_new(poll, pipe.readEnd, AVAHI_WATCH_IN, wakeCallback, me)
    rebuildTimer = poll.pointee.timeout_new(poll, nil, rebuildCallback, me)
    republishTimer = poll.pointee.timeout_new(poll, nil, republishCallback, me)
    resolveTimer = poll.pointee.timeout_new(poll, nil, resolveAgainCallback, me)
    set(rebuildTimer, seconds: 0)
    guard pipeWatch != nil, rebuildTimer != nil, republishTimer != nil, resolveTimer != nil,
      avahi_threaded_poll_start(thread) == 0
    else {
      free()
      return false
    }
    // The thread holds a reference until `end` has joined it.
    _ = Unmanaged.passRetained(self)
    return true
  }

  /// Joins Avahi's thread and frees everything, on a thread that may wait.
  static func end(_ connection: AvahiConnection, then done: @escaping @Sendable () -> Void) {
    let finish: @Sendable () -> Void = {
      avahi_threaded_poll_stop(connection.thread)
      connection.free()
      Unmanaged.passUnretained(connection).release()
      done()
    }
    // Without a thread to spare, waiting here is what is left.
    if startThread(isDetached: true, finish) == nil { finish() }
  }

  private func free() {
    dropClient()
    if let pipeWatch { poll.pointee.watch_free(pipeWatch) }
    for timer in [rebuildTimer, republishTimer, resolveTimer] {
      if let timer { poll.pointee.timeout_free(timer) }
    }
    avahi_threaded_poll_free(thread)
    change {
      $0.daemon = .stopped
      $0.publication = .none
      $0.retrySeconds = nil
    }
    output.finish()
  }

  // MARK: From any thread

  var currentReport: AvahiReport { shared.withLock { $0.report } }

  func want(_ announcement: ServiceAnnouncement?) {
    shared.withLock { $0.wanted = announcement }
    pipe.wake()
  }

  // MARK: On Avahi's thread

  fileprivate func woken() {
    pipe.drain()
    publishWanted()
  }

  /// Makes a new client, or plans another try.
  fileprivate func rebuild() {
    dropClient()
    var code: Int32 = 0
    isBuilding = true
    // Waits for the daemon by itself, but not for the bus: then there is no client at all.
    let new = avahi_client_new(
      poll, AVAHI_CLIENT_NO_FAIL, clientCallback, Unmanaged.passUnretained(self).toOpaque(), &code)
    isBuilding = false
    guard let new else {
      let error = avahiError("connecting to the system bus", code)
      let isNoBus = Int(code) == AVAHI_ERR_NO_DAEMON || Int(code) == AVAHI_ERR_DBUS_ERROR
      fail(error, as: isNoBus ? .noBus : .failed)
      return
    }
    client = new
    enter(avahi_client_get_state(new), of: new)
  }

  /// Frees the client and all that hangs on it.
  private func dropClient() {
    for service in services.values {
      if let resolver = service.resolver { avahi_service_resolver_free(resolver) }
    }
    services = [:]
    if let browser { avahi_service_browser_free(browser) }
    if let group { avahi_entry_group_free(group) }
    if let client { avahi_client_free(client) }
    (browser, group, client, held) = (nil, nil, nil, nil)
    isRunning = false
    noteServices()
    change { $0.publication = .none }
  }

  /// Notes that the way to the daemon is broken and plans to build it again.
  private func fail(_ error: AvahiError, as daemon: AvahiReport.Daemon) {
    failures += 1
    isRunning = false
    let wait = AvahiLimits.retrySeconds(attempt: failures)
    set(rebuildTimer, seconds: wait)
    change {
      $0.daemon = daemon
      $0.lastError = error
      $0.retrySeconds = wait
      $0.publication = .none
    }
  }

  /// Follows the client's state; called by Avahi, inside `avahi_client_new` too, when `client` is not set yet.
  fileprivate func enter(_ state: AvahiClientState, of client: OpaquePointer) {
    if isBuilding { return }
    switch state {
    case AVAHI_CLIENT_S_RUNNING:
      isRunning = true
      stopTimer(rebuildTimer)
      let version = text(avahi_client_get_version_string(client))
      let host = text(avahi_client_get_host_name_fqdn(client))
      change {
        $0.daemon = .running
        $0.version = version
        $0.hostName = host
        $0.retrySeconds = nil
      }
      browse(with: client)
      publishWanted()
    case AVAHI_CLIENT_S_REGISTERING, AVAHI_CLIENT_S_COLLISION:
      stopTimer(rebuildTimer)
      // The host's own records are being established; a service on top of them must wait.
      isRunning = false
      if let group { avahi_entry_group_reset(group) }
      held = nil
      change {
        $0.daemon = state == AVAHI_CLIENT_S_REGISTERING ? .registering : .hostNameCollision
        $0.publication = .none
        $0.retrySeconds = nil
      }
    case AVAHI_CLIENT_CONNECTING:
      // The client waits for a daemon that starts, but not for one that was there and did not answer.
      set(rebuildTimer, seconds: AvahiLimits.longestRetry)
      change {
        $0.daemon = .noDaemon
        $0.retrySeconds = AvahiLimits.longestRetry
      }
    case AVAHI_CLIENT_FAILURE:
      let code = avahi_client_errno(client)
      let isGone = Int(code) == AVAHI_ERR_DISCONNECTED
      // The first rebuild is at once, but never from inside the client's own callback.
      let isFirst = failures == 0
      shared.withLock { $0.report.rebuilds += 1 }
      fail(avahiError("talking to Avahi's daemon", code), as: isGone ? .noDaemon : .failed)
      if isFirst { set(rebuildTimer, seconds: 0) }
    default: break
    }
  }

  /// The way to the daemon works end to end.
  private func confirm() {
    failures = 0
  }

  // MARK: Publishing

  /// Makes what is published equal to what is wanted.
  fileprivate func publishWanted() {
    let wanted = shared.withLock { $0.wanted }
    if let wanted, !ownInstances.contains(wanted.record.instance) {
      ownInstances = Array(([wanted.record.instance] + ownInstances).prefix(AvahiLimits.ownInstances))
      (nameSuffix, publishFailures) = (1, 0)
    }
    guard let client, isRunning else { return }
    guard let wanted else {
      if held != nil, let group { avahi_entry_group_reset(group) }
      held = nil
      change { $0.publication = .none }
      return
    }
    if let held, held.announcement == wanted { return }
    if group == nil {
      group = avahi_entry_group_new(client, groupCallback, Unmanaged.passUnretained(self).toOpaque())
    }
    guard let group else {
      retryPublishing(avahiError("making an entry group", avahi_client_errno(client)))
      return
    }
    let name = instanceName(wanted)
    let isUpdate = held.map { $0.name == name && $0.announcement.port == wanted.port } ?? false
    if !isUpdate { avahi_entry_group_reset(group) }
    held = (wanted, name)
    let code = write(wanted, name: name, into: group, isUpdate: isUpdate)
    if Int(code) == AVAHI_ERR_COLLISION {
      collide()
    } else if code < 0 {
      retryPublishing(avahiError("publishing '\(name)'", code))
    } else if !isUpdate {
      change { $0.publication = .registering(name: name) }
    }
  }

  /// Adds the service to the group and commits, or changes the record of one that is there.
  private func write(
    _ wanted: ServiceAnnouncement, name: String, into group: OpaquePointer, isUpdate: Bool
  ) -> Int32 {
    var list: UnsafeMutablePointer<AvahiStringList>?
    // The list is built from its end.
    for string in wanted.record.strings.reversed() {
      list = avahi_string_list_add_arbitrary(list, string, string.count)
    }
    defer { avahi_string_list_free(list) }
    if isUpdate {
      return avahi_entry_group_update_service_txt_strlst(
        group, anyInterface, anyFamily, AvahiPublishFlags(0), name, serviceType, nil, list)
    }
    let code = avahi_entry_group_add_service_strlst(
      group, anyInterface, anyFamily, AvahiPublishFlags(0), name, serviceType, nil, nil, wanted.port, list)
    return code < 0 ? code : avahi_entry_group_commit(group)
  }

  private func instanceName(_ wanted: ServiceAnnouncement) -> String {
    nameSuffix == 1 ? "\(wanted.record.instance)" : "\(wanted.record.instance)-\(nameSuffix)"
  }

  fileprivate func enter(_ state: AvahiEntryGroupState, of group: OpaquePointer) {
    guard let held else { return }
    switch state {
    case AVAHI_ENTRY_GROUP_REGISTERING: change { $0.publication = .registering(name: held.name) }
    case AVAHI_ENTRY_GROUP_ESTABLISHED:
      publishFailures = 0
      confirm()
      change { $0.publication = .established(name: held.name) }
    case AVAHI_ENTRY_GROUP_COLLISION: collide()
    case AVAHI_ENTRY_GROUP_FAILURE:
      let code = client.map { avahi_client_errno($0) } ?? Int32(AVAHI_ERR_FAILURE)
      retryPublishing(avahiError("publishing '\(held.name)'", code))
    default: break
    }
  }

  /// Somebody else has the name: takes another, at once the first time, then ever more slowly.
  private func collide() {
    nameSuffix += 1
    held = nil
    publishFailures += 1
    change { $0.collisions += 1 }
    set(
      republishTimer,
      seconds: publishFailures == 1 ? 0 : AvahiLimits.retrySeconds(attempt: publishFailures - 1))
  }

  private func retryPublishing(_ error: AvahiError) {
    held = nil
    publishFailures += 1
    set(republishTimer, seconds: AvahiLimits.retrySeconds(attempt: publishFailures))
    change {
      $0.lastError = error
      $0.publication = .failed(error)
    }
  }

  // MARK: Browsing

  private func browse(with client: OpaquePointer) {
    guard browser == nil else { return }
    browser = avahi_service_browser_new(
      client, anyInterface, anyFamily, serviceType, nil, AvahiLookupFlags(0), browseCallback,
      Unmanaged.passUnretained(self).toOpaque())
    if browser == nil { fail(avahiError("browsing", avahi_client_errno(client)), as: .failed) }
  }

  fileprivate func browsed(_ event: AvahiBrowserEvent, _ key: ServiceKey?, domain: String, isOwn: Bool) {
    switch event {
    case AVAHI_BROWSER_NEW:
      guard let key, !isOwn, services[key] == nil else { return }
      guard services.count < AvahiLimits.services else {
        shared.withLock { $0.report.omittedServices += 1 }
        return
      }
      services[key] = Service(domain: domain)
      resolve(key)
      noteServices()
    case AVAHI_BROWSER_REMOVE:
      // No sign of death: the record only ran out or was taken back.
      guard let key, let service = services.removeValue(forKey: key) else { return }
      if let resolver = service.resolver { avahi_service_resolver_free(resolver) }
      noteServices()
    case AVAHI_BROWSER_ALL_FOR_NOW, AVAHI_BROWSER_CACHE_EXHAUSTED: confirm()
    case AVAHI_BROWSER_FAILURE:
      let code = client.map { avahi_client_errno($0) } ?? Int32(AVAHI_ERR_FAILURE)
      fail(avahiError("browsing", code), as: .failed)
    default: break
    }
  }

  /// Resolves a service, and follows it: the resolver stays and reports every change of the record.
  private func resolve(_ key: ServiceKey) {
    guard let client, var service = services[key], service.resolver == nil else { return }
    // The callback's own family: asking for any gives an IPv6 address for what was seen over IPv4.
    service.resolver = avahi_service_resolver_new(
      client, key.interface, key.family, key.name, serviceType, service.domain, key.family,
      AvahiLookupFlags(0), resolveCallback, Unmanaged.passUnretained(self).toOpaque())
    services[key] = service
    if service.resolver == nil {
      resolvingFailed(key, avahiError("resolving '\(key.name)'", avahi_client_errno(client)))
    }
  }

  fileprivate func resolved(_ key: ServiceKey, address: NetworkAddress, strings: [[UInt8]]) {
    guard services[key] != nil else { return }
    services[key]?.failures = 0
    do {
      let record = try ServiceRecord(strings: strings)
      guard !ownInstances.contains(record.instance) else { return }
      emit(.hint(DiscoveryHint(service: record, at: address)))
    } catch {
      shared.withLock { $0.report.refusedRecords += 1 }
    }
  }

  fileprivate func resolvingFailed(_ key: ServiceKey) {
    let code = client.map { avahi_client_errno($0) } ?? Int32(AVAHI_ERR_FAILURE)
    resolvingFailed(key, avahiError("resolving '\(key.name)'", code))
  }

  private func resolvingFailed(_ key: ServiceKey, _ error: AvahiError) {
    guard var service = services[key] else { return }
    if let resolver = service.resolver { avahi_service_resolver_free(resolver) }
    service.resolver = nil
    service.failures += 1
    services[key] = service
    set(resolveTimer, seconds: AvahiLimits.retrySeconds(attempt: service.failures))
    change { $0.lastError = error }
  }

  /// Resolves again what could not be resolved.
  fileprivate func resolveAgain() {
    for key in services.filter({ $0.value.resolver == nil }).keys { resolve(key) }
  }

  // MARK: Reporting

  /// Without an event: a flood of services must not drive hints out of the stream.
  private func noteServices() {
    let count = services.count
    shared.withLock { $0.report.services = count }
  }

  private func change(_ body: (inout AvahiReport) -> Void) {
    let changed = shared.withLock { shared -> AvahiReport? in
      let before = shared.report
      body(&shared.report)
      return shared.report == before ? nil : shared.report
    }
    if let changed { emit(.report(changed)) }
  }

  private func emit(_ event: AvahiDiscovery.Event) {
    // Counted without an event of its own, which would only drive out another.
    if case .dropped = output.yield(event) { shared.withLock { $0.report.lostEvents += 1 } }
  }

  private func set(_ timer: OpaquePointer?, seconds: Int) {
    guard let timer else { return }
    var instant = timeval()
    avahi_elapse_time(&instant, UInt32(seconds * 1000), 0)
    poll.pointee.timeout_update(timer, &instant)
  }

  fileprivate func stopTimer(_ timer: OpaquePointer?) {
    if let timer { poll.pointee.timeout_update(timer, nil) }
  }
}

private let anyInterface: AvahiIfIndex = -1
private let anyFamily: AvahiProtocol = -1

private func avahiError(_ operation: String, _ code: Int32) -> AvahiError {
  AvahiError(operation: operation, code: code, text: text(avahi_strerror(code)) ?? "unknown")
}

private func text(_ pointer: UnsafePointer<CChar>?) -> String? {
  pointer.map { String(cString: $0) }
}

private func connection(_ data: UnsafeMutableRawPointer?) -> AvahiConnection {
  guard let data else { preconditionFailure("Avahi lost the owner of its callbacks") }
  return Unmanaged<AvahiConnection>.fromOpaque(data).takeUnretainedValue()
}

private let wakeCallback: AvahiWatchCallback = { _, _, _, data in connection(data).woken() }

private let rebuildCallback: AvahiTimeoutCallback = { timer, data in
  let owner = connection(data)
  owner.stopTimer(timer)
  owner.rebuild()
}

private let republishCallback: AvahiTimeoutCallback = { timer, data in
  let owner = connection(data)
  owner.stopTimer(timer)
  owner.publishWanted()
}

private let resolveAgainCallback: AvahiTimeoutCallback = { timer, data in
  let owner = connection(data)
  owner.stopTimer(timer)
  owner.resolveAgain()
}

private let clientCallback: AvahiClientCallback = { client, state, data in
  guard let client else { return }
  connection(data).enter(state, of: client)
}

private let groupCallback: AvahiEntryGroupCallback = { group, state, data in
  guard let group else { return }
  connection(data).enter(state, of: group)
}

private let browseCallback: AvahiServiceBrowserCallback = {
  _, interface, family, event, name, _, domain, flags, data in
  let key = text(name).map {
    AvahiConnection.ServiceKey(name: $0, interface: interface, family: family)
  }
  let isOwn = flags.rawValue & AVAHI_LOOKUP_RESULT_OUR_OWN.rawValue != 0
  connection(data).browsed(event, key, domain: text(domain) ?? "local", isOwn: isOwn)
}

private let resolveCallback: AvahiServiceResolverCallback = {
  _, interface, family, event, name, _, _, _, address, port, strings, _, data in
  guard let name = text(name) else { return }
  let key = AvahiConnection.ServiceKey(name: name, interface: interface, family: family)
  guard event == AVAHI_RESOLVER_FOUND, let address else {
    connection(data).resolvingFailed(key)
    return
  }
  let host: NetworkAddress.Host
  if address.pointee.proto == AVAHI_PROTO_INET {
    host = .v4(UInt32(bigEndian: address.pointee.data.ipv4.address))
  } else {
    let bytes = withUnsafeBytes(of: address.pointee.data.ipv6.address) { Array($0) }
    func word(_ part: ArraySlice<UInt8>) -> UInt64 { part.reduce(0) { $0 << 8 | UInt64($1) } }
    // Avahi gives no scope; an address that needs one is on the interface where it was seen.
    host = .v6(high: word(bytes[..<8]), low: word(bytes[8...]), scope: UInt32(max(interface, 0)))
  }
  var texts: [[UInt8]] = []
  var next = strings
  while let entry = next, texts.count <= ServiceRecord.entryLimit {
    let size = avahi_string_list_get_size(entry)
    texts.append(Array(UnsafeBufferPointer(start: avahi_string_list_get_text(entry), count: size)))
    next = avahi_string_list_get_next(entry)
  }
  connection(data).resolved(key, address: NetworkAddress(host, port: port), strings: texts)
}
