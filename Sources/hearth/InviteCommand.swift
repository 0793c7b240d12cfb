import ArgumentParser
import HearthNode

/// `hearth invite`.
struct InviteCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "invite",
    abstract: "Let a new device join the household.",
    discussion: """
      Shows a code of eight digits that is good for five minutes and one device. When a device uses it, its name \
      and fingerprint are shown, and you say yes or no. Stopping the command ends the invitation.

      With --token it prints a token for a device without a keyboard: good for one device within a day, without \
      a further question. Whoever reads the token can join, so treat it like a password.

      Takes an admin's device with a running daemon.

      Example:
        hearth invite
        hearth invite --token
      """)

  @OptionGroup var reporting: ReportingOptions

  @Flag(help: "Print a token in place of a code.")
  var token = false

  @Flag(help: "Let the new device invite and remove others too.")
  var admin = false

  @Flag(help: "Accept the first device that has the code, without asking.")
  var yes = false

  func run() throws {
    let place = try Here.place()
    var request = ControlRequest(.invite)
    request.token = token
    request.admin = admin
    var client = try HouseholdClient(request, place: place)
    let invited = try client.answer()
    try tell(invited, invited.text)
    if token { return }
    while let event = try client.next(timeout: .seconds(Int64(invited.seconds ?? 300) + 130)) {
      switch event.event {
      case .asked: try answer(event, place: place)
      case .admitted: return try tell(event, event.text)
      case .declined: throw HouseholdFailure.declined(event.name ?? "")
      default: continue
      }
    }
    throw HouseholdFailure.invitationEnded("the daemon ended the invitation; see its log")
  }

  private func answer(_ event: ControlEvent, place: HouseholdPlace) throws {
    try tell(event, event.text)
    var request = ControlRequest(.answer)
    request.device = event.device
    request.accept = yes
    if !yes { request.accept = try Question.yes("Let it join?") }
    var client = try HouseholdClient(request, place: place)
    _ = try client.answer()
  }

  private func tell(_ event: ControlEvent, _ text: String) throws {
    if reporting.json { try OutputStream.standard.write(jsonLine(event) + "\n") }
    // The token or code is the result; what is said about it is for people.
    if !reporting.json { try OutputStream.standard.write(text + "\n") }
  }
}
