import ComputeRuntime
import GossipMembership
import HearthStorage
import HouseholdTrust
import Logging
import MeshModel
import MeshPeer
import MeshTransport
import TrainingCoordination

extension HouseholdDaemon {
  /// Messages of jobs that wait to be sent; more are dropped, and said again.
  static let waitingJobMessages = 4096
  /// Of the free disk, the share that blobs of jobs may take.
  private static let blobShare = 0.5

  /// Opens the blobs below the state directory; nil, and said in the log, when that cannot be.
  static func openBlobs(_ stateDirectory: String, log: Logger) async -> BlobStore? {
    do {
      return try await onOwnThread("blobs") {
        let free = Double(try freeDiskBytes(stateDirectory))
        return try BlobStore(stateDirectory: stateDirectory, budget: Int(free * blobShare))
      }
    } catch {
      log.error("no-jobs", metadata: ["error": "\(error)"])
      return nil
    }
  }

  /// Before the first session: from then on bulk frames go to the desk.
  func openBulkDesk() {
    guard let blobs = doors.blobs else { return }
    let desk = BulkDesk(own: peer.own, transport: doors.transport, store: blobs) { [weak self] device in
      Task { await self?.handle(.openBulk(device)) }
    }
    bulk = desk
    doors.transport.receiveBulk(at: desk)
  }

  /// Takes up the jobs of this device.
  func startJobs(seed: UInt64) async {
    defer {
      isStartingJobs = false
      for waiter in jobStartWaiters { waiter.resume() }
      jobStartWaiters = []
    }
    guard let bulk, let blobs = doors.blobs else { return }
    let door = JobService.Doors(
      keys: peer.household.keys, stateDirectory: options.stateDirectory, desk: bulk, blobs: blobs,
      limits: DeviceLimits(threads: options.jobThreads, memoryBytes: options.jobMemory),
      pause: pause.reason,
      send: { [jobMail] in jobMail.put(JobFarewell(device: $0, body: $1)) },
      measureLinks: { [weak self] in await self?.measuredLinks() })
    do {
      let service = try await JobService.start(door, household: jobHousehold, seed: seed, log: log)
      jobs = service
      jobService = service
      // What changed while it was being made it has not heard.
      toldPause = door.pause
      await tellPause()
      // What it has said meanwhile waits for it to be there for the answers.
      sendJobMail()
      tellJobs()
    } catch {
      log.error("no-jobs", metadata: ["error": "\(error)"])
    }
  }

  /// Sends what the jobs have said.
  func sendJobMail() {
    guard jobs != nil else { return }
    for message in jobMail.takeAll() { handle(.job(to: message.device, body: message.body)) }
  }

  /// Returns once it is known whether this device trains.
  func jobsAreStarted() async {
    guard isStartingJobs else { return }
    await withCheckedContinuation { jobStartWaiters.append($0) }
  }

  /// Ends this device's part in jobs, and tells the others while they can still be told.
  func stopJobs() async {
    await jobsAreStarted()
    guard let service = jobs else { return }
    jobService = nil
    await service.leave("its daemon was stopped")
    let farewells = await service.stop()
    // What was said before goes before.
    sendJobMail()
    for message in farewells { handle(.job(to: message.device, body: message.body)) }
    jobs = nil
    bulk?.shutdown()
  }

  /// Tells the jobs how the household is.
  func tellJobs() {
    jobsAreStale = false
    jobs?.update(jobHousehold)
  }

  private var jobHousehold: JobHousehold {
    let view = peer.household.log.view
    let members = view.members
    var alive: Set<DeviceID> = []
    for member in members {
      switch peer.presence(of: member.device) {
      case .alive, .suspect: alive.insert(member.device)
      case .unknown, .unreachable, .left, .revoked: break
      }
    }
    return JobHousehold(
      membership: JobMembership(
        alive: alive, reachable: alive.filter { peer.absence(of: $0) == nil },
        leader: peer.membership.suggestedLeader,
        keys: Dictionary(uniqueKeysWithValues: members.map { ($0.device, $0.signingKey) }),
        admins: Set(members.map(\.device).filter(view.isAdmin))),
      names: Dictionary(uniqueKeysWithValues: members.map { ($0.device, $0.name) }))
  }
}
