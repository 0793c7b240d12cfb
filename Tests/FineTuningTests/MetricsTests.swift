import FineTuning
import Testing

// The expected values of this file come from scikit-learn 1.9.1 and SciPy 1.17.1:
//   from sklearn.metrics import accuracy_score, f1_score, mean_squared_error
//   from scipy.stats import pearsonr, spearmanr
// with the calls that stand above each value.

@Suite("Classification scores")
struct ClassificationScoresTests {
  @Test("equal scikit-learn's accuracy and F1 of the positive class for two classes")
  func twoClasses() {
    let actual = [0, 1, 1, 0, 1, 0, 1, 1, 0, 1]
    let predicted = [0, 1, 0, 0, 1, 1, 1, 0, 0, 1]
    let scores = ClassificationScores(predicted: predicted, actual: actual, classCount: 2)
    #expect(scores.accuracy == 0.7)  // accuracy_score(actual, predicted)
    #expect(abs(scores.f1 - 0.7272727272727273) < 1e-15)  // f1_score(actual, predicted)
  }

  @Test("equal scikit-learn's accuracy and macro F1 for more classes, an unpredicted one included")
  func moreClasses() {
    let actual = [0, 1, 2, 2, 1, 0, 3, 1, 2, 0, 1, 2]
    let predicted = [0, 2, 2, 2, 1, 0, 1, 1, 0, 0, 1, 2]
    let scores = ClassificationScores(predicted: predicted, actual: actual, classCount: 5)
    #expect(scores.accuracy == 0.75)  // accuracy_score(actual, predicted)
    // f1_score(actual, predicted, average='macro', zero_division=0)
    #expect(abs(scores.f1 - 0.5892857142857143) < 1e-15)
  }

  @Test("are 0 where nothing is right and of no rows, and 1 where everything is right")
  func ends() {
    let none = ClassificationScores(predicted: [], actual: [], classCount: 2)
    #expect(none.accuracy == 0 && none.f1 == 0)
    let wrong = ClassificationScores(predicted: [0, 0], actual: [1, 1], classCount: 2)
    #expect(wrong.accuracy == 0 && wrong.f1 == 0)
    let right = ClassificationScores(predicted: [2, 0, 1], actual: [2, 0, 1], classCount: 3)
    #expect(right.accuracy == 1 && right.f1 == 1)
  }

  @Test("of generated texts count exact matches, white space at the ends aside")
  func exactMatches() {
    #expect(exactMatch(predicted: ["yes", " no\n", "No"], actual: ["yes", "no", "no"]) == 2.0 / 3)
    #expect(exactMatch(predicted: [], actual: []) == 0)
  }
}

@Suite("Regression scores")
struct RegressionScoresTests {
  @Test("equal SciPy's correlations, tied ranks averaged, and scikit-learn's mean squared error")
  func reference() {
    let predicted = [2.5, 0.0, 3.75, 3.75, 1.2, 4.9, 0.0, 2.5]
    let actual = [2.0, 0.5, 4.0, 3.0, 1.0, 5.0, 0.5, 2.0]
    let scores = RegressionScores(predicted: predicted, actual: actual)
    #expect(abs(scores.pearson - 0.9650866346928788) < 1e-14)  // pearsonr(predicted, actual)[0]
    #expect(abs(scores.spearman - 0.9938837346736189) < 1e-14)  // spearmanr(predicted, actual)[0]
    // mean_squared_error(actual, predicted)
    #expect(abs(scores.meanSquaredError - 0.20937499999999998) < 1e-15)
  }

  @Test("have correlation 0 where it is undefined: a constant side, fewer than two rows")
  func degenerate() {
    let constant = RegressionScores(predicted: [2, 2, 2], actual: [1, 2, 3])
    #expect(constant.pearson == 0 && constant.spearman == 0)
    #expect(constant.meanSquaredError == 2.0 / 3)
    let single = RegressionScores(predicted: [1], actual: [4])
    #expect(single.pearson == 0 && single.spearman == 0 && single.meanSquaredError == 9)
    let none = RegressionScores(predicted: [], actual: [])
    #expect(none.pearson == 0 && none.spearman == 0 && none.meanSquaredError == 0)
  }

  @Test("stay within -1...1, order alone deciding the rank correlation")
  func bounds() {
    let x = (0..<50).map { 0.1 * Double($0) }
    let straight = RegressionScores(predicted: x, actual: x.map { 3 - 7 * $0 })
    #expect(straight.pearson >= -1 && straight.pearson < -1 + 1e-12)
    let bent = RegressionScores(predicted: x, actual: x.map { $0 * $0 * $0 })
    #expect(bent.spearman <= 1 && bent.spearman > 1 - 1e-12 && bent.pearson < 0.95)
  }

  @Test("are NaN when a prediction is not finite, so that a diverged run shows")
  func diverged() {
    let scores = RegressionScores(predicted: [1, .infinity], actual: [1, 2])
    #expect(scores.pearson.isNaN && scores.spearman.isNaN && scores.meanSquaredError.isNaN)
  }
}
