import FoundationEssentials
import HearthStorage

extension HouseholdFile {
  /// The file with what this device measured: its entry, and its links to devices that the file has.
  ///
  /// Run on one device after the other, a file comes to hold all devices and, since the later of two knows the earlier,
  /// all links. `link`, for pairs that nobody measured, is never better than the worst that was.
  package func updated(with device: Device, links measured: [LinkSurveyReport.Link]) -> HouseholdFile {
    var file = self
    let own = device.name
    if let place = file.devices.firstIndex(where: { $0.name == own && ($0.count ?? 1) == 1 }) {
      file.devices[place] = device
    } else {
      file.devices.append(device)
    }
    let names = Set(file.expanded.map(\.name))
    var links = file.links ?? []
    for link in measured where names.contains(link.name) {
      guard let rate = link.mbitS, let roundTrip = link.roundTripMs else { continue }
      let pair = Set([own, link.name])
      links.removeAll { Set($0.between ?? []) == pair }
      links.append(Link(between: [own, link.name], mbitS: max(rate, 0.01), latencyMs: roundTrip / 2))
    }
    file.link.mbitS = min(file.link.mbitS, links.map(\.mbitS).min() ?? .infinity)
    file.link.latencyMs = max(file.link.latencyMs, links.map(\.latencyMs).max() ?? 0)
    file.links = links.isEmpty ? nil : links
    return file
  }

  /// Puts what this device measured into a household file, which is made if there is none.
  package static func update(_ path: String, with profile: LocalProfile) throws {
    var file = HouseholdFile(name: "household", devices: [], link: profile.household.link)
    do {
      file = try read(path)
    } catch let failure as FileFailure where failure.isMissing {
      // The first device of a new file.
    }
    file = file.updated(with: profile.device, links: profile.links?.links ?? [])
    if let problem = file.problem { throw PlanFailure.household(path: path, detail: problem) }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    let text = String(decoding: try encoder.encode(file), as: UTF8.self) + "\n"
    try AtomicFile.write(Array(text.utf8), to: path)
  }
}
