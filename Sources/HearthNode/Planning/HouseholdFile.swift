import FoundationEssentials
import HearthStorage

/// What can be wrong with planning beyond the planner's own failures.
package enum PlanFailure: UserFacingFailure, Equatable {
  /// A household file that cannot be used.
  case household(path: String, detail: String)
  /// A model that is neither a built-in shape nor a directory.
  case unknownModel(String, shapes: [String])
  /// A technique that this model cannot have.
  case technique(detail: String)
  /// A number of the request that does not fit the others.
  case request(detail: String)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .household: .badData
    case .unknownModel: .missingInput
    case .technique, .request: .usage
    }
  }

  /// One line for people: what, where, and the next step.
  package var description: String {
    switch self {
    case .household(let path, let detail):
      "household file '\(path)': \(detail); docs/PLANNING.md describes the format"
    case .unknownModel(let name, let shapes):
      "'\(name)' is no directory and no built-in shape; give a model's directory or one of "
        + shapes.joined(separator: ", ")
    case .technique(let detail): "the technique does not fit the model: \(detail)"
    case .request(let detail): detail
    }
  }
}

/// A household as a file describes it: for devices that are not here, and for what `hearth profile` measured.
package struct HouseholdFile: Sendable, Codable, Equatable {
  /// Most bytes of such a file.
  package static let maximumBytes = 1 << 20

  /// One device, or several alike.
  package struct Device: Sendable, Codable, Equatable {
    /// What it is called; with `count`, a number is added.
    package var name: String
    /// How many there are of it; nil means one.
    package var count: Int?
    /// Memory that a plan may use, as "1.45GiB".
    package var memory: String
    /// Space for the activation cache, as "16GiB"; nil means 16 GiB.
    package var cache: String?
    /// Rate of the backbone's matrix products over all cores, GFLOP/s.
    package var gflops: Double
    /// Rate of the side network's smaller products, GFLOP/s; nil means as the backbone's.
    package var sideGflops: Double?
    /// Time that a layer takes beyond its products, once a pass; nil means none.
    package var layerOverheadMs: Double?
    /// The same of a side layer's forward and backward pass.
    package var sideOverheadMs: [Double]?
    /// Rate at which the disk takes data, MB/s; nil means 50.
    package var diskWriteMbS: Double?
    /// Rate at which the disk gives data, MB/s; nil means 100.
    package var diskReadMbS: Double?
    /// Micro-batches of lanes computed at once; nil means one.
    package var workers: Int?
    /// Rate at which an optimizer step goes through trained weights, MB of one copy a second; nil means in no time.
    package var updateMbS: Double?
    /// What was measured for jobs of one shape, which then counts in place of the rates.
    package var measured: Measured?

    /// A device with what every device needs.
    package init(name: String, memory: String, gflops: Double) {
      self.name = name
      self.memory = memory
      self.gflops = gflops
    }
  }

  /// Times that were measured for one shape of job.
  package struct Measured: Sendable, Codable, Equatable {
    /// Names the shape.
    package var shape: String
    /// What its parts take.
    package var timings: PartTimings

    /// Times of a shape.
    package init(shape: String, timings: PartTimings) {
      self.shape = shape
      self.timings = timings
    }
  }

  /// A link.
  package struct Link: Sendable, Codable, Equatable {
    /// The two devices, by name; nil for the link between all others.
    package var between: [String]?
    /// Payload rate, Mbit/s.
    package var mbitS: Double
    /// One way, milliseconds.
    package var latencyMs: Double

    /// A link.
    package init(between: [String]? = nil, mbitS: Double, latencyMs: Double) {
      self.between = between
      self.mbitS = mbitS
      self.latencyMs = latencyMs
    }
  }

  /// What the household is called.
  package var name: String
  /// The devices.
  package var devices: [Device]
  /// The link between any two devices that `links` does not name.
  package var link: Link
  /// Links that differ.
  package var links: [Link]?

  /// A household of devices on links that are all alike.
  package init(name: String, devices: [Device], link: Link) {
    self.name = name
    self.devices = devices
    self.link = link
  }

  /// Reads and checks a file.
  package static func read(_ path: String) throws -> HouseholdFile {
    let bytes = try readWholeFile(path, limit: maximumBytes)
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let file: HouseholdFile
    do {
      file = try decoder.decode(HouseholdFile.self, from: Data(bytes))
    } catch let error as DecodingError {
      throw PlanFailure.household(path: path, detail: HouseholdFile.words(error))
    }
    if let problem = file.problem { throw PlanFailure.household(path: path, detail: problem) }
    return file
  }

  /// The devices, each for itself.
  package var expanded: [Device] {
    devices.flatMap { device in
      guard let count = device.count, count > 1 else { return [device] }
      return (1...count).map { number in
        var one = device
        one.name = "\(device.name)-\(number)"
        one.count = nil
        return one
      }
    }
  }

  /// What is wrong with the numbers and names; nil when nothing is.
  package var problem: String? {
    if let wrong = devices.first(where: { !(1...64).contains($0.count ?? 1) }) {
      return "'\(wrong.name)' has a count of \(wrong.count ?? 1); it must be 1 to 64"
    }
    let all = expanded
    guard (1...64).contains(all.count) else {
      return "it has \(all.count) devices; 1 to 64 can be planned with"
    }
    let names = Set(all.map(\.name))
    guard names.count == all.count else { return "two devices have the same name" }
    for device in all {
      guard ByteCount(parsing: device.memory) != nil else {
        return "the memory of '\(device.name)' is '\(device.memory)'; write it as 1.5GiB"
      }
      guard device.cache.map({ ByteCount(parsing: $0) != nil }) ?? true else {
        return "the cache space of '\(device.name)' is '\(device.cache ?? "")'; write it as 16GiB"
      }
      for (what, rate) in [
        ("gflops", device.gflops), ("side_gflops", device.sideGflops ?? 1),
        ("disk_write_mb_s", device.diskWriteMbS ?? 1), ("disk_read_mb_s", device.diskReadMbS ?? 1),
        ("update_mb_s", device.updateMbS ?? 1),
      ] where !(rate >= 0.01 && rate <= 1e6) {
        return "\(what) of '\(device.name)' is \(rate); it must be 0.01 to 1000000"
      }
      for overhead in (device.sideOverheadMs ?? []) + [device.layerOverheadMs ?? 0]
      where !(overhead >= 0 && overhead <= 1e4) {
        return "an overhead of '\(device.name)' is \(overhead) ms; it must be 0 to 10000"
      }
      guard [0, 2].contains(device.sideOverheadMs?.count ?? 0) else {
        return "side_overhead_ms of '\(device.name)' must have two numbers, forward and backward"
      }
      guard (1...256).contains(device.workers ?? 1) else {
        return "'\(device.name)' has \(device.workers ?? 1) workers; it must have 1 to 256"
      }
      if let problem = device.measured?.timings.problem {
        return "what was measured of '\(device.name)' cannot be used: \(problem)"
      }
    }
    return linkProblem(names)
  }

  private func linkProblem(_ names: Set<String>) -> String? {
    for link in [link] + (links ?? []) {
      guard link.mbitS >= 0.01 && link.mbitS <= 1e6 else {
        return "a link has \(link.mbitS) Mbit/s; it must have 0.01 to 1000000"
      }
      guard link.latencyMs >= 0 && link.latencyMs <= 1e4 else {
        return "a link has a latency of \(link.latencyMs) ms; it must be 0 to 10000"
      }
    }
    for link in links ?? [] {
      guard let between = link.between, between.count == 2, between[0] != between[1] else {
        return "each of 'links' needs 'between' with the names of two devices"
      }
      if let stranger = between.first(where: { !names.contains($0) }) {
        return "a link names '\(stranger)', which is no device of the file"
      }
    }
    return nil
  }

  private static func words(_ error: DecodingError) -> String {
    func place(_ context: DecodingError.Context) -> String {
      let path = context.codingPath.map { $0.intValue.map { "[\($0)]" } ?? $0.stringValue }.joined(
        separator: ".")
      return path.isEmpty ? "the file" : "'\(path)'"
    }
    switch error {
    case .keyNotFound(let key, let context): return "\(place(context)) has no '\(key.stringValue)'"
    case .typeMismatch(_, let context), .valueNotFound(_, let context):
      return "\(place(context)) has a value of the wrong type"
    case .dataCorrupted: return "it is no JSON"
    @unknown default: return "it cannot be read"
    }
  }
}
