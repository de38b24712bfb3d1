"""What policies reach after training: response statistics, judges, comparisons, the audit. Values only."""
