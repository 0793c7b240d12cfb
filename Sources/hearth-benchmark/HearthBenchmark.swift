@main
struct HearthBenchmark {
  static func main() {}
}
