import Determinism
package import HouseholdTrust
import MeshModel
package import MeshPeer

/// The links of this device as it measured them, as commands tell it.
package struct LinkSurveyReport: Codable, Sendable, Equatable {
  /// How long a command waits for it: the survey's time, and that of the link that it began last.
  package static let answerTime: Duration = .seconds(90)

  /// One link.
  package struct Link: Codable, Sendable, Equatable {
    /// The other device's name; with the start of its id when two devices have that name.
    package var name: String
    /// Its id, 32 hexadecimal digits.
    package var device: String
    /// The median round trip in milliseconds.
    package var roundTripMs: Double?
    /// How many round trips were measured.
    package var echoes: Int
    /// Payload towards the other device, in Mbit/s.
    package var mbitS: Double?
    /// Bytes that were sent to measure it.
    package var burstBytes: Int
    /// Why something was not measured.
    package var gap: String?
    /// What to do about it.
    package var nextStep: String?

    /// A link with what was measured of it.
    package init(
      name: String, device: String, roundTripMs: Double? = nil, echoes: Int = 0, mbitS: Double? = nil,
      burstBytes: Int = 0, gap: LinkGap? = nil
    ) {
      self.name = name
      self.device = device
      self.roundTripMs = roundTripMs
      self.echoes = echoes
      self.mbitS = mbitS
      self.burstBytes = burstBytes
      self.gap = gap?.rawValue
      nextStep = gap?.nextStep
    }
  }

  /// This device's name in the household.
  package var name: String
  /// The links to the other members, by name.
  package var links: [Link]

  /// Links by names.
  package init(name: String, links: [Link]) {
    self.name = name
    self.links = links
  }

  /// What was measured, with the household's names.
  package init(_ measured: [LinkMeasurement], household: Household) {
    let names = household.log.members.map(\.name)
    func name(of device: DeviceID) -> String {
      let plain = household.log.certificate(of: device)?.name ?? "?"
      return names.count { $0 == plain } == 1 ? plain : household.shownName(of: device)
    }
    self.name = name(of: household.device)
    links = measured.map { link in
      Link(
        name: name(of: link.device), device: link.device.description,
        roundTripMs: link.roundTrip.map { rounded($0.inSeconds * 1000, 3) }, echoes: link.echoes,
        mbitS: link.bytesPerSecond.map { rounded($0 * 8e-6, 2) }, burstBytes: link.burstBytes, gap: link.gap)
    }.sorted { ($0.name, $0.device) < ($1.name, $1.device) }
  }

  /// What a person reads, line by line.
  package var lines: [String] {
    guard !links.isEmpty else { return ["links               this device is alone in its household"] }
    let rows = [["link to", "round trip", "rate", ""]]
    return tableLines(rows + links.map(\.cells))
  }
}

extension LinkSurveyReport.Link {
  fileprivate var cells: [String] {
    [
      name, roundTripMs.map { "\(decimal($0, 2)) ms" } ?? "-",
      mbitS.map { "\(decimal($0, 1)) Mbit/s" } ?? "-",
      gap.map { "\($0): \(nextStep ?? "")" } ?? "",
    ]
  }
}

/// What came of asking this device's daemon for its links.
package enum LinkSurveyAnswer: Sendable, Equatable {
  /// It measured them.
  case measured(LinkSurveyReport)
  /// It could not be asked; the note says why, and what to do.
  case notMeasured(note: String)

  /// Asks the daemon, which takes about half a second for each device that answers.
  ///
  /// Without a daemon links are not measured; when they are required, that is a failure.
  package static func ask(environment: [String: String], isRequired: Bool) throws -> LinkSurveyAnswer {
    do {
      let place = try HouseholdPlace(environment: environment)
      var client = try HouseholdClient(ControlRequest(.links), place: place)
      guard let report = try client.next(timeout: LinkSurveyReport.answerTime)?.links else {
        throw HouseholdFailure.refused("the daemon ended without an answer; see its log")
      }
      return .measured(report)
    } catch is LocalControlUnavailable where !isRequired {
      return .notMeasured(
        note:
          "links were not measured, since the daemon is not running here; start it with 'hearth up', then run "
          + "'hearth profile' again")
    } catch let refusal as DaemonRefusal where !isRequired {
      return .notMeasured(note: "links were not measured: \(refusal)")
    } catch HouseholdFailure.noStateDirectory where !isRequired {
      return .notMeasured(note: "links were not measured, since there is no state directory; set HEARTH_HOME")
    }
  }
}

/// The value with that many decimals.
private func rounded(_ value: Double, _ places: Int) -> Double {
  let scale = (0..<places).reduce(1.0) { scale, _ in scale * 10 }
  return (value * scale).rounded() / scale
}

extension LinkGap {
  /// What a person can do about it.
  package var nextStep: String {
    switch self {
    case .noSession: "no session stands; 'hearth peers' says why"
    case .limitedSession: "network key or version differ; 'hearth peers' says which"
    case .noEcho: "it did not answer in time; look at the network between the two, then try again"
    case .noConnection: "no second connection could be opened; try again, and look at its firewall"
    case .unanswered: "it does not answer bursts; its Hearth may be older, then update it"
    case .busy: "a link is being measured there; try again in 10 s"
    case .tooOften: "it was measured a moment ago; try again in 10 s"
    case .interrupted: "the session ended on the way; try again"
    case .outOfTime: "there were too many links for one survey; run it on the other device"
    }
  }
}
