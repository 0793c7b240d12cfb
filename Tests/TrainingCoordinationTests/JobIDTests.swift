import Testing
import TrainingCoordination
import WireCoding

@Suite("Names of jobs")
struct JobIDTests {
  @Test("a job's name reads back from its 32 digits and from its 16 bytes")
  func roundTrip() throws {
    let id = JobID(0x0123, 0xFEDC_BA98_7654_3210)
    #expect(id.description == "0000000000000123fedcba9876543210")
    #expect(JobID(id.description) == id)
    #expect(try JobID(decoding: id.encoded) == id)
    #expect(id.encoded.count == 16)
  }

  @Test("text that is no name is refused", arguments: ["", "12", String(repeating: "g", count: 32)])
  func refused(text: String) {
    #expect(JobID(text) == nil)
  }

  @Test("a stamp has 28 bytes and reads back; a shorter one is refused")
  func stamp() throws {
    let stamp = JobStamp(job: JobID(1, 2), term: 3, epoch: 4)
    #expect(stamp.encoded.count == 28)
    #expect(try JobStamp(decoding: stamp.encoded) == stamp)
    #expect(throws: DecodingFailure.self) { try JobStamp(decoding: stamp.encoded.dropLast()) }
  }
}
