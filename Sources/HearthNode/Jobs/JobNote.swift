extension JobReport {
  /// Notes that a report holds; older ones give way.
  package static let noteLimit = 64

  /// One thing that happened to a job's devices.
  package struct Note: Codable, Sendable, Equatable {
    /// What happened.
    package enum Kind: String, Codable, Sendable, CaseIterable {
      /// A device came and takes part.
      case joined
      /// A device left in order.
      case left
      /// A device was lost.
      case lost
      /// A device is here and is not used, for a reason.
      case notUsed = "not_used"
      /// The work is divided anew.
      case replanned
      /// The job goes on after an interruption.
      case recovered
      /// The job waits for devices.
      case paused
      /// An admin let the job go on without a majority of its devices.
      case adopted
    }

    /// A pace: how fast the job was or is, and how long it would take from where it is.
    package struct Pace: Codable, Sendable, Equatable {
      /// Samples a second of all devices together, measured.
      package var samplesPerSecond: Double
      /// Seconds to the end of the last epoch at this rate.
      package var etaSeconds: Double?

      /// A pace.
      package init(samplesPerSecond: Double, etaSeconds: Double?) {
        self.samplesPerSecond = samplesPerSecond
        self.etaSeconds = etaSeconds
      }
    }

    /// Tells notes apart; ascending, also when older ones have given way.
    package var number: Int
    /// What happened.
    package var kind: Kind
    /// Seconds since the job was submitted.
    package var seconds: Double
    /// The device's name; nil when it is about all.
    package var device: String?
    /// Why.
    package var reason: String?
    /// The plan that came of it.
    package var planEpoch: UInt64?
    /// The optimizer step from which the job goes on.
    package var step: Int?
    /// Devices that compute from then on.
    package var devices: Int?
    /// Seconds from the interruption to the first step after it.
    package var tookSeconds: Double?
    /// The pace until then; nil when too little was measured.
    package var before: Pace?
    /// The pace from then on; nil until enough is measured.
    package var after: Pace?

    /// A note without measurements.
    package init(number: Int, kind: Kind, seconds: Double, device: String? = nil, reason: String? = nil) {
      self.number = number
      self.kind = kind
      self.seconds = seconds
      self.device = device
      self.reason = reason
    }
  }
}

extension JobReport.Note {
  /// What a person reads, without what is still being measured.
  package var text: String {
    let name = device ?? "a device"
    let why = reason.map { " (\($0))" } ?? ""
    switch kind {
    case .joined: return "\(name) joined\(goingOn)"
    case .left: return "\(name) left\(why)\(goingOn)"
    case .lost: return "\(name) was lost\(why)\(goingOn)"
    case .notUsed: return "\(name) was not used: \(reason ?? "no reason was given")"
    case .replanned: return "the work is divided anew\(why)\(goingOn)"
    case .recovered: return (tookSeconds.map { "recovered in \(duration($0))" } ?? "recovered") + goingOn
    case .paused: return "paused: \(reason ?? "it waits for devices")"
    case .adopted: return "adopted by \(name): it goes on with the devices that are here"
    }
  }

  /// What a person reads once both paces are measured; nil before.
  package var paceText: String? {
    guard let after else { return nil }
    let subject =
      switch kind {
      case .joined: "\(device ?? "a device") joined"
      case .left: "without \(device ?? "a device")"
      case .lost: "without \(device ?? "a device")"
      case .replanned: "divided anew"
      case .notUsed, .recovered, .paused, .adopted: "since then"
      }
    let rate = "\(decimal(after.samplesPerSecond, 1)) samples/s"
    let left = after.etaSeconds.map { ", about \(spokenDuration($0)) left" } ?? ""
    guard let before else { return "\(subject): \(rate)\(left)" }
    let rates = "\(decimal(before.samplesPerSecond, 1)) -> \(rate)"
    let instead = before.etaSeconds.map { left.isEmpty ? "" : " instead of \(spokenDuration($0))" } ?? ""
    return "\(subject): \(rates)\(left)\(instead)"
  }

  private var goingOn: String {
    switch (step, devices) {
    case (let step?, let devices?): "; going on from step \(grouped(step)) with \(counted(devices))"
    case (let step?, nil): "; going on from step \(grouped(step))"
    case (nil, let devices?): "; going on with \(counted(devices))"
    case (nil, nil): ""
    }
  }

  private func counted(_ devices: Int) -> String { devices == 1 ? "1 device" : "\(devices) devices" }
}

/// A duration as people say it: "8 s", "2 min 40 s", "3 h 5 min".
package func spokenDuration(_ seconds: Double) -> String {
  guard seconds.isFinite, seconds >= 0, seconds < 1e9 else { return "?" }
  if seconds < 9.5 { return seconds < 0.95 ? decimal(seconds, 1) + " s" : decimal(seconds, 0) + " s" }
  let total = Int(seconds.rounded())
  let (hours, minutes, rest) = (total / 3600, total / 60 % 60, total % 60)
  if hours > 0 { return minutes > 0 ? "\(hours) h \(minutes) min" : "\(hours) h" }
  if minutes > 0 { return rest > 0 ? "\(minutes) min \(rest) s" : "\(minutes) min" }
  return "\(rest) s"
}
