import CryptoPrimitives
import Foundation
import HearthNode
import HearthStorage
import MeshModel
import MeshProtocol
import MeshTransport
import Synchronization
import Testing
import TrainingCoordination
import WireCoding

@Suite("Blobs between devices", .timeLimit(.minutes(5)))
struct BlobTransferTests {
  private let job = JobID(7, 8)

  @Test("come whole from several devices at once, over sockets and in memory", arguments: Carriage.allCases)
  func several(_ carriage: Carriage) async throws {
    let bench = try await TransferBench(carriage, devices: 3)
    let content = pattern(5, 20_000_001)
    let id = try bench.devices[0].store.add(bytes: content)
    #expect(try bench.devices[1].store.add(bytes: content) == id)
    for device in bench.devices { device.desk.blobs.admit(job: job, blobs: [id], readers: bench.roster) }
    let told = Mutex<[Int]>([])
    try await bench.devices[2].desk.fetch(id, for: job, from: bench.roster) { chunks, wanted in
      told.withLock { $0.append(chunks * 1000 + wanted) }
    }
    #expect(try bench.devices[2].store.readAll(id, limit: content.count) == content)
    #expect(told.withLock { $0 } == (1...20).map { $0 * 1000 + 20 })
    // What is here already is not fetched, whoever is asked.
    try await bench.devices[2].desk.fetch(id, for: job, from: [])
    await bench.shutdown()
  }

  @Test("go on where an interrupted fetch ended, and fetch parts")
  func parts() async throws {
    let bench = try await TransferBench(.sockets, devices: 2)
    let content = pattern(6, 8 << 20)
    let id = try bench.devices[0].store.add(bytes: content)
    bench.devices[0].desk.blobs.admit(job: job, blobs: [id], readers: bench.roster)
    try await bench.devices[1].desk.fetch(id, part: .bytes([1 << 20..<3 << 20]), for: job, from: bench.roster)
    #expect(bench.devices[1].store.held(of: id)?.chunks == [1, 2])
    let before = bench.devices[1].transport.counters.receivedBytes
    try await bench.devices[1].desk.fetch(id, for: job, from: bench.roster)
    let rest = bench.devices[1].transport.counters.receivedBytes - before
    #expect(rest > 6 << 20 && rest < 7 << 20, "\(rest) bytes for 6 chunks")
    #expect(try bench.devices[1].store.readAll(id, limit: content.count) == content)
    await bench.shutdown()
  }

  @Test("are given to no device that the job does not name, for no other job, and not when the job has ended")
  func access() async throws {
    let bench = try await TransferBench(.memory, devices: 3)
    let id = try bench.devices[0].store.add(bytes: [1, 2, 3])
    let secret = try bench.devices[0].store.add(bytes: [4, 5, 6])
    bench.devices[0].desk.blobs.admit(job: job, blobs: [id], readers: [bench.roster[1]])
    let (owner, reader, stranger) = (bench.devices[0], bench.devices[1], bench.devices[2])
    func isRefused(_ device: TransferDevice, _ blob: ContentDigest, _ job: JobID) async throws -> Bool {
      let session = await device.rawSession(to: owner)
      let question = [1] + job.encoded + blob.bytes
      let answer = await device.rawAnswer(
        on: session, to: MeshFrame(.bulk, channel: 2, body: question))
      return answer.first == 5
    }
    #expect(try await !isRefused(reader, id, job))
    #expect(try await isRefused(reader, secret, job))
    #expect(try await isRefused(reader, id, JobID(7, 9)))
    #expect(try await isRefused(stranger, id, job))
    owner.desk.blobs.forget(job: job)
    #expect(try await isRefused(reader, id, job))
    await bench.shutdown()
  }

  @Test("of a source whose file has rotted come from another, and the source is not asked again")
  func rotten() async throws {
    let bench = try await TransferBench(.sockets, devices: 3)
    let content = pattern(9, 12 << 20)
    let id = try bench.devices[0].store.add(bytes: content)
    _ = try bench.devices[1].store.add(bytes: content)
    let path = try bench.devices[0].store.dataPath(of: id)
    let handle = try #require(FileHandle(forWritingAtPath: path))
    for chunk in 0..<12 {
      try handle.seek(toOffset: UInt64(chunk << 20 + 9))
      try handle.write(contentsOf: Data([content[chunk << 20 + 9] ^ 8]))
    }
    try handle.close()
    for device in bench.devices { device.desk.blobs.admit(job: job, blobs: [id], readers: bench.roster) }
    let reader = bench.devices[2]
    await #expect(throws: BlobFetchFailure.noSource(id, missing: 12, faults: [.corrupt])) {
      try await reader.desk.fetch(id, for: job, from: [bench.roster[0]])
    }
    #expect(reader.transport.counters[.refusedBlob] == 1)
    #expect(reader.store.held(of: id)?.isEmpty == true)
    try await reader.desk.fetch(id, for: job, from: bench.roster)
    #expect(try reader.store.readAll(id, limit: content.count) == content)
    await bench.shutdown()
  }

  @Test("that no device has fail with what was wrong, and can be given up")
  func failures() async throws {
    let bench = try await TransferBench(.memory, devices: 2)
    let id = BlobManifest(byteCount: 1, digests: [ContentDigest(of: [1])]).id
    bench.devices[1].refusesToDial.withLock { $0 = true }
    await #expect(throws: BlobFetchFailure.noSource(id, missing: 0, faults: [.vanished])) {
      try await bench.devices[1].desk.fetch(id, for: job, from: bench.roster)
    }
    bench.devices[1].refusesToDial.withLock { $0 = false }
    let task = Task { try await bench.devices[1].desk.fetch(id, for: job, from: bench.roster) }
    task.cancel()
    let result = await task.result
    #expect(throws: BlobFetchFailure.cancelled(id)) { try result.get() }
    await bench.shutdown()
  }
}
