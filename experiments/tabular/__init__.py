"""Small tables: tangent kernels beside scikit-learn's classifiers, tuned alike."""
