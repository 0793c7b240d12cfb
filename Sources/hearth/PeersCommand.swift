import ArgumentParser
import HearthNode

/// `hearth peers`.
struct PeersCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "peers",
    abstract: "Show the household's devices: who is here, and why somebody is not.",
    discussion: """
      Names every device with its state and since when, address, path, round trip, machine, power and version. \
      For each device that is not in, a reason and what to do about it. '*' marks this device.

      While the daemon is down it shows what lies on the disk and ends with code 68.

      Example:
        hearth peers
        hearth peers --watch
        hearth peers --json
      """)

  @OptionGroup var reporting: ReportingOptions

  @Flag(help: "Go on showing what changes, until stopped.")
  var watch = false

  func run() throws {
    let place = try Here.place()
    var request = ControlRequest(.status)
    request.watch = watch
    do {
      guard watch else {
        var client = try HouseholdClient(request, place: place)
        if let report = try client.answer().status { try show(report) }
        return
      }
      let end = try HouseholdClient.follow(request, place: place) { event in
        if let report = event.status { try show(report) }
        return true
      }
      if end == .daemonGone {
        throw HouseholdFailure.refused("the daemon has stopped; start it with 'hearth up'")
      }
    } catch let failure as LocalControlUnavailable {
      try show(try HouseholdOffice(place).storedReport())
      throw failure
    }
  }

  private func show(_ report: HouseholdReport) throws {
    guard !reporting.json else { return try OutputStream.standard.write(jsonLine(report) + "\n") }
    let style = Here.style
    // On a terminal the newest picture takes the place of the one before.
    let start = watch && style.columns != nil ? "\u{1B}[H\u{1B}[2J" : ""
    let end = watch && style.columns == nil ? "\n" : ""
    try OutputStream.standard.write(start + report.text(style: style) + end)
  }
}
