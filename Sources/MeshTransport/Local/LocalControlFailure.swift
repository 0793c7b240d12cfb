import Glibc

/// Why the command line and the daemon cannot talk through their local socket.
package enum LocalControlFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// Nobody listens there: there is no socket, or the daemon that made it is gone.
  case notRunning(path: String)
  /// Another daemon listens there already.
  case alreadyServed(path: String)
  /// Something that is not a socket has the path.
  case notASocket(path: String)
  /// The path does not fit a socket address.
  case pathTooLong(path: String, limit: Int)
  /// The process at the other end belongs to another user.
  case otherUser(user: UInt32, path: String)
  /// The other end took or sent nothing for too long.
  case timedOut(path: String)
  /// The other end closed in the middle.
  case disconnected(path: String)
  /// A line is longer than its limit.
  case lineTooLong(limit: Int)
  /// A line that is to be sent holds a line end.
  case notALine
  /// A call of the system failed.
  case system(call: String, code: Int32, path: String)

  /// What is wrong, where, and the next step.
  package var description: String {
    switch self {
    case .notRunning(let path): "no Hearth daemon listens at \(path); start it with 'hearth up'"
    case .alreadyServed(let path):
      "a Hearth daemon listens at \(path) already; use it, or stop it before you start another"
    case .notASocket(let path): "\(path) is not a socket; move it away, the daemon needs that path"
    case .pathTooLong(let path, let limit):
      "\(path) has \(path.utf8.count) bytes, a socket's path at most \(limit); choose a shorter HEARTH_HOME"
    case .otherUser(let user, let path):
      "the process at \(path) runs as user \(user); run this command as the user of the daemon"
    case .timedOut(let path): "no answer at \(path) in time; 'hearth doctor' tells what the daemon does"
    case .disconnected(let path): "the daemon at \(path) closed before its answer ended; see its log"
    case .lineTooLong(let limit): "a line at the local socket is longer than \(limit) bytes; ask for less"
    case .notALine: "a message at the local socket holds a line end; send it as two"
    case .system(let call, let code, let path):
      "\(call) failed at \(path): \(String(cString: strerror(code))); check the directory and its permissions"
    }
  }
}
